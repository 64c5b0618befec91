"""One cell: a method on a dataset with a seed and settings, and its identity."""

import hashlib
import json
import re
from typing import Any, Literal

from pydantic import Field

from mmbench.settings import Settings, TrainerSettings

Protocol = Literal["validated", "published"]
Fidelity = Literal["corrected", "released"]
Preset = Literal["common", "authors"]
FOLDER = re.compile(r"(?P<dataset>[^.]+)\.(?P<label>.+)\.s(?P<seed>\d+)\.[0-9a-f]{12}")


def canonical(value: Any) -> str:  # Any: whatever JSON can hold
    """Return the one JSON text of ``value``: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 12) -> str:  # Any: whatever JSON can hold
    """Return the first ``length`` hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def encoder_parts(encoder: str) -> tuple[str, str]:
    """Return the name of an encoder and the rest of ``name:variant@model``, each part optional."""
    plain, at, model = encoder.partition("@")
    name, _, variant = plain.partition(":")
    return name, variant + at + model


class Cell(Settings):
    """Everything that changes a result, and nothing else (no path, device or logging).

    Attributes:
        label: the row this cell belongs to; follows from the method's config and is not hashed.
        changed: settings that differ from what fidelity, preset and dataset give, by dotted key
            (``method.X``, ``trainer.X``, ``dataset.X``, ``encoder.M``); for reports, not hashed.
        unaffected: bundles (``released``, ``authors``) that would change nothing here; not hashed.
        protocol: ``validated`` selects the epoch on a validation split and reads test at the end;
            ``published`` selects it on test, as most released code does.
        fidelity: the bundle of options the method's config was made from.
        preset: the recipe the trainer settings were made from.
        sources: hash of each file that defines the method, the dataset or an encoder and is not
            part of mmbench: an edited plug-in makes another cell. Built-in ones have a version.
    """

    method: str
    label: str
    method_version: int
    method_config: dict[str, Any]
    dataset: str
    dataset_version: int
    dataset_config: dict[str, Any]
    split_hash: str
    encoders: dict[str, str]
    protocol: Protocol = "validated"
    fidelity: Fidelity = "corrected"
    preset: Preset = "common"
    trainer: TrainerSettings
    seed: int
    changed: dict[str, Any] = Field(default_factory=dict)
    unaffected: tuple[str, ...] = ()
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def id(self) -> str:
        """The first 12 hex digits of the hash of all that changes the result."""
        aside = {"label", "changed", "unaffected"} | (set() if self.sources else {"sources"})
        return digest(self.model_dump(mode="json", exclude=aside))

    @property
    def folder(self) -> str:
        """Name of the run directory: readable, and unique by the id; ``FOLDER`` reads it."""
        return f"{self.dataset}.{self.label}.s{self.seed}.{self.id}"
