"""The contract of ``datasets/``: what a dataset is and what it must be able to do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mmbench.data.words import WORDS
from mmbench.errors import UserError
from mmbench.settings import Settings

Kind = Literal["vector", "image", "spectrogram", "frames", "video", "text"]
SPLITS = ("train", "val", "test")
# What torch's ModuleDict has of its own: no encoder or head can be kept under these names.
# fmt: off
TAKEN = frozenset(
    {
        "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init",
        "children", "clear", "compile", "cpu", "cuda", "double", "dump_patches", "eval",
        "extra_repr", "float", "forward", "get_buffer", "get_extra_state", "get_parameter",
        "get_submodule", "half", "ipu", "items", "keys", "load_state_dict", "modules",
        "mtia", "named_buffers", "named_children", "named_modules", "named_parameters",
        "parameters", "pop", "register_backward_hook", "register_buffer",
        "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
        "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook", "register_module", "register_parameter",
        "register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_",
        "set_extra_state", "set_submodule", "share_memory", "state_dict", "to", "to_empty",
        "train", "training", "type", "update", "values", "xpu", "zero_grad",
    }
)
# fmt: on


@dataclass(frozen=True)
class Modality:
    """One input stream.

    Attributes:
        name: key used everywhere; a Python identifier that does not begin with an underscore, not
            ``fused`` and none of ``TAKEN``.
        kind: what the tensor is, which decides the default encoder.
        shape: shape of one sample, without the batch axis, as the encoder sees it
            (image and spectrogram: C, H, W; frames and video: C, T, H, W; vector: D).
        mean: per channel, subtracted by the loader (after bytes became 0 to 1); empty: nothing.
        std: per channel, divided by after that.
        vocabulary: of a text: ``words`` (hashed words) or the name of a tokenizer.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    vocabulary: str = WORDS

    def __post_init__(self) -> None:
        if not may_name(self.name):
            raise UserError(
                f"a modality cannot be called {self.name!r}: use a Python identifier other than "
                "'fused', without an underscore in front or two in a row, and not the name of "
                "something that torch.nn.ModuleDict has, such as 'keys' or 'type'"
            )


def may_name(name: str) -> bool:
    """Say whether a modality can have this name."""
    if not name.isidentifier() or name.startswith("_") or "__" in name:  # a__b is a pair
        return False
    return name not in {"fused", *TAKEN}


@dataclass(frozen=True)
class Task:
    """What is to be predicted from what.

    Attributes:
        modalities: in the dataset's fixed order.
        classes: display name of each class; the label is the index.
        metrics: names from ``mmbench.metrics.METRICS``, for the tables.
        primary: the metric that selects the epoch and ranks methods.
    """

    modalities: tuple[Modality, ...]
    classes: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy", "map", "macro_f1")
    primary: str = "accuracy"

    def __post_init__(self) -> None:
        if not (isinstance(self.classes, tuple | list)
                and all(isinstance(name, str) for name in self.classes)):  # fmt: skip
            raise UserError(f"a task's classes are their names, a tuple of text; found "
                            f"{self.classes!r}")  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities, in order."""
        return tuple(m.name for m in self.modalities)


@dataclass(frozen=True)
class SplitArrays:
    """One split in memory or memory-mapped.

    Attributes:
        inputs: per modality an array [N, *shape]: float32 or float16; uint8, which the loader
            divides by 255; or int32, the word numbers of a text (0: padding), left as they are.
        label: [N] int64.
        ids: N names, unique over the whole dataset.
        groups: N keys (speaker, source image ...) used to look for leaks.
    """

    inputs: Mapping[str, NDArray[np.generic]]
    label: NDArray[np.int64]
    ids: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class DatasetInfo:
    """What a reader must know before using a dataset.

    Attributes:
        title: one line.
        licence: under which terms, and for what.
        source: where it comes from or how to obtain it.
        real: which part is recorded data and which is synthesised.
        layout: the folder tree that ``prepare`` expects; empty if none is needed.
        counts: samples to expect in each split.
        size: of the cache.
    """

    title: str
    licence: str
    source: str
    real: str
    layout: str = ""
    counts: str = ""
    size: str = ""


class DatasetConfig(Settings):
    """Options of a dataset; part of a cell's identity. Subclass it as ``Config``."""


class Dataset(ABC):
    """A dataset: a task, its origin, and how to make its arrays.

    A subclass is registered with ``@register_dataset("name")``. It is constructed with its
    validated config and must be cheap to construct: data is touched only by ``build``.

    Class attributes:
        Config: options of the dataset.
        info: title, licence, source.
        version: raise it when ``build`` gives other arrays for the same config.
        embedded: True if ``build`` needs no root folder and no network.
        rooted: True if ``prepare`` needs ``--root``, unless it is embedded.
        resumable: True if ``build`` keeps its progress in ``scratch``: it is then kept until the
            build has succeeded, and the next ``build`` finds it.
        generator: True if it is drawn from a formula: it is run by name, and is not part of
            ``--datasets embedded``.
        grouped_by: what the groups are, e.g. ``"speakers"``; ``verify`` counts those in two splits.
        repeats: samples that two splits may share because the source holds them twice; ``verify``
            tells of them, and fails on more.
        trainer: defaults of the trainer for this dataset, e.g. ``{"epochs": 30}``.
        encoders: default encoder per modality as ``"name"``; missing: by kind.
    """

    name: ClassVar[str]
    Config: ClassVar[type[DatasetConfig]] = DatasetConfig
    info: ClassVar[DatasetInfo]
    version: ClassVar[int] = 1
    embedded: ClassVar[bool] = False
    rooted: ClassVar[bool] = True
    resumable: ClassVar[bool] = False
    generator: ClassVar[bool] = False
    grouped_by: ClassVar[str] = "groups"
    repeats: ClassVar[int] = 0
    trainer: ClassVar[Mapping[str, object]] = {}
    encoders: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: DatasetConfig | None = None) -> None:
        self.config = config if config is not None else self.Config()

    @property
    @abstractmethod
    def task(self) -> Task:
        """The modalities, classes and metrics under this config."""

    @abstractmethod
    def build(self, root: Path | None, scratch: Path) -> Mapping[str, SplitArrays]:
        """Make the arrays of ``train``, ``val`` and ``test``.

        Args:
            root: folder with the native files; None for embedded sets.
            scratch: a folder that is deleted afterwards (see ``resumable``). If ``notes.json`` is
                left there, an object, it is kept in the manifest; its ``source`` and
                ``left_out``, a list of samples that could not be read, are shown by ``verify``.

        Raises:
            UserError: if ``root`` is missing, unreadable or does not have the layout.
        """

    def best_accuracy(self) -> float | None:
        """Return the accuracy on test that no classifier of all modalities exceeds, if known."""
        return None

    def augmentations(self) -> Mapping[str, str]:
        """Return the batched augmentation of each modality in training (``data.augment``)."""
        return {}


@dataclass(frozen=True)
class Prepared:
    """A dataset as the trainer sees it: loaded from the cache, checked against its manifest.

    Attributes:
        split_hash: hash of ids, labels and split membership; part of a cell's identity.
        data_hash: hash of every array; in the record only.
    """

    task: Task
    splits: Mapping[str, SplitArrays]
    split_hash: str
    data_hash: str
    augmentations: Mapping[str, str] = field(default_factory=dict)
