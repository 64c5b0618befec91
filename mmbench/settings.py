"""Validated settings: the base model, the field helper, and errors a person can act on."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmbench.errors import UserError, nearest

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Frozen settings: unknown keys, NaN and out-of-range values are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


def setting(default: Any, doc: str, *, source: str, **limits: Any) -> Any:
    """Declare one setting with its meaning, its allowed range and where its default comes from.

    Args:
        default: the default value.
        doc: one line that ``mmbench show`` prints.
        source: the paper's section, the authors' script, or ``"mmbench"`` for our own choice.
        limits: pydantic's bounds (``ge``, ``gt``, ``le``, ``lt``, ``min_length``).

    Returns:
        A pydantic field (typed Any, as ``pydantic.Field`` is).
    """
    return Field(default, description=doc, json_schema_extra={"source": source}, **limits)


def allowed(model: type[BaseModel], key: str) -> str:
    """Describe the values that ``model.key`` takes, in words."""
    schema = model.model_json_schema()
    field = schema["properties"][key]
    branches = field.get("anyOf", [field])
    words = [_branch_words(schema, branch) for branch in branches]
    return " or ".join(words)


def _branch_words(schema: Mapping[str, Any], branch: Mapping[str, Any]) -> str:
    if "$ref" in branch:
        branch = schema["$defs"][branch["$ref"].rsplit("/", 1)[1]]
    if "enum" in branch:
        return "one of " + ", ".join(str(v) for v in branch["enum"])
    if "const" in branch:
        return str(branch["const"])
    bounds = {
        "minimum": ">=",
        "exclusiveMinimum": ">",
        "maximum": "<=",
        "exclusiveMaximum": "<",
        "minItems": "length >=",
        "minLength": "length >=",
    }
    limits = [f"{sign} {branch[k]}" for k, sign in bounds.items() if k in branch]
    kind = {"null": "none", "boolean": "true or false"}.get(
        branch.get("type", "any"), branch.get("type", "any")
    )
    return f"{kind} {' and '.join(limits)}".strip()


def validate(model: type[S], values: Mapping[str, Any], prefix: str) -> S:
    """Build ``model`` from ``values``; a mistake becomes a UserError that names key and value.

    Args:
        model: the settings class.
        values: the keys the user gave.
        prefix: what to put before a key in messages, e.g. ``"trainer"``.

    Raises:
        UserError: for an unknown key or a value that is not allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as err:
        raise UserError(_explain(model, err, prefix)) from err


def _explain(model: type[BaseModel], err: ValidationError, prefix: str) -> str:
    lines = []
    for item in err.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(all)"
        top = str(item["loc"][0]) if item["loc"] else ""
        if item["type"] == "extra_forbidden":
            known = list(model.model_fields)
            lines.append(
                f"unknown setting '{prefix}.{key}'{nearest(key, known)} "
                f"(known: {', '.join(known) or 'none'})"
            )
        elif top in model.model_fields:
            lines.append(
                f"'{prefix}.{key}' cannot be {item['input']!r}: {item['msg']}; "
                f"allowed: {allowed(model, top)}"
            )
        else:
            lines.append(f"'{prefix}': {item['msg'].removeprefix('Value error, ')}")
    return "\n".join(dict.fromkeys(lines))


def parse_value(text: str) -> Any:
    """Read a command-line value as TOML (``0``, ``false``, ``[1, 2]``, ``"x"``), else as text.

    ``none`` and ``null`` give None, which TOML cannot say; an empty text stays an empty text.
    """
    if text.strip().lower() in {"none", "null"}:
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


class TrainerSettings(Settings):
    """What the shared trainer does; part of a cell's identity.

    The defaults are the protocol shared by this line of work (methods.md section 0.5).
    """

    epochs: int = setting(100, "passes over the training data", source="IPRM script", ge=1)
    batch_size: int = setting(64, "samples per step", source="IPRM script", ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = setting(
        "sgd", "the optimiser", source="IPRM script"
    )
    lr: float = setting(0.01, "base learning rate", source="IPRM script", gt=0)
    momentum: float = setting(0.9, "SGD momentum", source="IPRM script", ge=0, lt=1)
    weight_decay: float = setting(1e-4, "weight decay", source="IPRM script", ge=0)
    schedule: Literal["step", "cosine", "constant"] = setting(
        "step", "shape of the learning rate over epochs", source="IPRM script"
    )
    lr_step: float = setting(
        0.7, "StepLR period as a share of the epochs", source="IPRM script: 70 of 100", gt=0, le=1
    )
    lr_gamma: float = setting(0.1, "StepLR factor", source="IPRM script", gt=0, le=1)
    warmup: float = setting(
        0.0, "linear warm-up, as a share of the epochs", source="mmbench", ge=0, lt=1
    )
    clip_norm: float | None = setting(
        None, "clip the total gradient norm to this; none: do not clip", source="mmbench", gt=0
    )
    precision: Literal["fp32", "bf16", "fp64"] = setting(
        "fp32", "bf16: autocast; fp64: everything in double", source="mmbench"
    )
    init: Literal["torch", "xavier", "kaiming"] = setting(
        "torch",
        "initialisation of linear and convolutional layers that an encoder leaves open",
        source="mmbench",
    )


class RunSettings(Settings):
    """How a cell is run on this machine; never part of a cell's identity."""

    device: str = setting("auto", "auto, cpu, mps, cuda or cuda:N", source="mmbench")
    threads: int | None = setting(
        None, "torch threads per worker; none: cores divided by workers", source="mmbench", ge=1
    )
    checkpoint_seconds: float = setting(
        60.0, "also write a checkpoint inside an epoch after this long", source="mmbench", ge=0
    )
    resident_fraction: float = setting(
        0.5, "keep a set on the device if it needs less than this share of free memory",
        source="mmbench", ge=0, le=1,
    )  # fmt: skip


def default_cache() -> Path:
    """Return the folder of prepared data: ``$MMBENCH_CACHE``, else ``~/.cache/mmbench``."""
    return Path(os.environ.get("MMBENCH_CACHE") or Path.home() / ".cache" / "mmbench")
