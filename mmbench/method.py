"""The contract of ``methods/``: what a training method is, and what the trainer offers it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from mmbench.dataset import Task
from mmbench.errors import UserError, nearest
from mmbench.settings import Settings, TrainerSettings, setting

__all__ = [
    "UNKNOWN",
    "Batch",
    "Deviation",
    "Encoder",
    "Fit",
    "Method",
    "MethodConfig",
    "Needs",
    "ParameterGroup",
    "log_entries",
    "of_trainer",
    "setting",
]


UNKNOWN = "unknown"  # in ``Method.authors``: neither paper nor released code says


@dataclass(frozen=True)
class Batch:
    """One batch on the device.

    Attributes:
        inputs: per modality [B, *shape].
        label: [B] int64.
        index: [B] int64, positions in the split the batch was drawn from.
    """

    inputs: Mapping[str, Tensor]
    label: Tensor
    index: Tensor


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    Attributes:
        name: how the method refers to the group.
        parameters: the tensors.
        lr_scale: factor on the scheduled learning rate.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0


@dataclass(frozen=True)
class Needs:
    """What a method needs from a task; an unsuitable pairing is refused before training.

    Attributes:
        min_modalities: the fewest modalities it works with.
        max_modalities: the most, or None.
        defined_for: number of modalities for which the paper defines the method; beyond it the
            method is an extension of ours and marked so in every output. None: any number.
    """

    min_modalities: int = 1
    max_modalities: int | None = None
    defined_for: int | None = None


@dataclass(frozen=True)
class Deviation:
    """One difference between the paper or our default and the authors' released code.

    Attributes:
        option: the field of the method's config that switches it; None for what is told and not
            switched, with both sides in words.
        corrected: our default.
        released: the value that does what the released code does.
        why: the reason for the default, in one or two sentences.
    """

    option: str | None
    corrected: object
    released: object
    why: str


class MethodConfig(Settings):
    """Options of a method; part of a cell's identity. Subclass it as ``Config``."""


class Encoder(Protocol):
    """An encoder: a module that maps [B, *shape] to [B, width]."""

    width: int


class Fit(Protocol):
    """What the trainer offers a method while it trains. Nothing here waits for the device."""

    seed: int
    epoch: int  # from 0
    epochs: int  # passes over the data in this run
    step: int  # from 0, over the whole run
    step_in_epoch: int
    device: torch.device

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches in an epoch."""

    @property
    def lr(self) -> float:
        """The scheduled base learning rate of this epoch."""

    @property
    def validates(self) -> bool:
        """Whether ``on_epoch_end`` gets validation metrics under this protocol."""

    def lr_at(self, epoch: int) -> float:
        """Return the scheduled base learning rate of ``epoch``."""

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Add the gradients of ``loss`` to the parameters' ``grad``."""

    def update(self, optimizer: str = "main") -> None:
        """Clip if asked, take one optimiser step, set all gradients to None."""

    def new_optimizer(
        self,
        name: str,
        groups: Iterable[ParameterGroup],
        *,
        weight_decay: float | None = None,
    ) -> None:
        """Create (or replace, forgetting its momentum) the optimiser ``name``.

        Args:
            name: what ``update`` is called with.
            groups: its parameters.
            weight_decay: None takes the trainer's.
        """

    def scale_lr(self, group: str, factor: float) -> None:
        """Set the factor of a group of the main optimiser, from now on."""

    def generator(self, tag: str) -> torch.Generator:
        """Return a generator on the device, seeded by (seed, tag, step): needs no checkpoint."""

    def train_batches(self, *, tag: str = "pass", augmented: bool = False) -> Iterator[Batch]:
        """Iterate over training data in an order given by (tag, epoch).

        Args:
            tag: names the stream of random numbers.
            augmented: as the training batches are.
        """

    def hold_out(self, fraction: float) -> None:
        """Take a stratified share of the training data away from the training batches."""

    def held_out_batches(self) -> Iterator[Batch]:
        """Iterate over what ``hold_out`` took away, shuffled once, without augmentation."""

    def sandbox(self) -> AbstractContextManager[None]:
        """Return a context in which model, optimisers and random numbers may be used up freely.

        On leaving, all of them are exactly what they were. No checkpoint may be written inside.
        """


FIT_NAMES = frozenset(
    name for name in (*Fit.__annotations__, *vars(Fit)) if not name.startswith("_")
)


class _Offered:
    """Shows of a trainer what ``Fit`` names: not the loop, not the loaders, not the test split."""

    def __init__(self, trainer: Fit) -> None:
        object.__setattr__(self, "_trainer", trainer)

    def __getattr__(self, name: str) -> Any:  # Any: as Fit says
        if name not in FIT_NAMES:
            offers = ", ".join(sorted(FIT_NAMES))
            raise AttributeError(f"fit has no {name!r}; it offers {offers}")
        return getattr(object.__getattribute__(self, "_trainer"), name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"fit.{name} cannot be set; keep it on the method itself")


def offered(trainer: Fit) -> Fit:
    """Return what a method may see of its trainer."""
    return _Offered(trainer)


class _NoFit:
    """Stands in for the trainer before training has begun, and after it."""

    def __getattr__(self, name: str) -> Any:  # Any: never returns
        if name.startswith("__"):  # Python asks: copy, pickle
            raise AttributeError(name)
        raise RuntimeError(
            f"this method is not being trained: 'fit.{name}' is only there inside a trainer"
        )


class Method(nn.Module):
    """A training method. Subclass it, and register it with ``@register_method("name")``.

    The trainer constructs it, moves it to the device, and then calls ``on_fit_start`` once,
    ``on_epoch_start``, ``step`` for every batch and ``on_epoch_end`` in every epoch. Everything a
    method must remember lives in its ``state_dict`` (parameters, buffers, ``get_extra_state``).
    With ``trainer.precision=bf16`` all of these run under autocast, and evaluation does not.

    Class attributes:
        name: set by the decorator.
        Config: its options.
        needs: which tasks it suits.
        version: raise it when the same config trains differently.
        reference: the paper.
        deviations: differences from the released code; they make up ``--fidelity released``.
        authors: the authors' own recipe for ``--preset authors``: keys ``trainer.lr`` or a
            config field, with the value, or ``UNKNOWN`` where their sources do not say.
        compiles: names of its functions of tensors (losses, mixtures) that ``--compile`` makes one
            kernel of many, as it does with the encoders; they may not call ``self.fit``.

    Args:
        task: what is predicted from what.
        encoders: one module per modality used, all of the same output width.
        config: validated options.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    needs: ClassVar[Needs] = Needs()
    version: ClassVar[int] = 1
    reference: ClassVar[str] = ""
    deviations: ClassVar[tuple[Deviation, ...]] = ()
    authors: ClassVar[Mapping[str, object]] = {}
    compiles: ClassVar[tuple[str, ...]] = ()

    # Any: each subclass narrows it to its own Config
    config: Any
    fit: Fit

    def __init__(self, task: Task, encoders: Mapping[str, nn.Module], config: MethodConfig) -> None:
        super().__init__()
        self.task = task
        self.config = config
        self.names = tuple(encoders)
        self.encoders = nn.ModuleDict(encoders)
        self.classes = len(task.classes)
        self.width = int(next(iter(encoders.values())).width)  # type: ignore[arg-type]  # Encoder
        self.fit = _NoFit()
        self.build()

    @classmethod
    def variants(cls, task: Task) -> list[dict[str, object]]:
        """Return the config overrides that ``--methods NAME`` expands to: one cell each."""
        return [{}]

    @classmethod
    def label(cls, config: Any) -> str:  # Any: the subclass's Config
        """Name the row of a table, e.g. ``unimodal-audio``."""
        return cls.name

    @classmethod
    def modalities(cls, task: Task, config: Any) -> tuple[str, ...]:  # Any: as above
        """Return the modalities whose encoders are built."""
        return task.names

    @classmethod
    def refuse(cls, task: Task, config: Any) -> str | None:  # Any: as above
        """Return why this method cannot run on this task, or None if it can."""
        count, needs = len(task.modalities), cls.needs
        if count < needs.min_modalities:
            return f"{cls.name} needs at least {needs.min_modalities} modalities; found {count}"
        if needs.max_modalities is not None and count > needs.max_modalities:
            return f"{cls.name} takes at most {needs.max_modalities} modalities; found {count}"
        return None

    @classmethod
    def remark(cls, task: Task) -> str | None:
        """Return what every output must say about this pairing, or None."""
        count, defined = len(task.modalities), cls.needs.defined_for
        if defined is not None and count > defined:
            return (
                f"{cls.name} is defined for {defined} modalities; "
                f"the rule for {count} is mmbench's extension"
            )
        return None

    @classmethod
    def released(cls) -> dict[str, object]:
        """Return the options that do what the released code does."""
        return {d.option: d.released for d in cls.deviations if d.option is not None}

    @classmethod
    def recipe(cls, given: Mapping[str, object], dataset: str = "") -> dict[str, object]:
        """Return what ``--preset authors`` sets; the unknown stays as in the common protocol.

        Args:
            given: the options the user chose, for a recipe that depends on one.
            dataset: name of the dataset, for authors who tuned an option to each.
        """
        return {key: value for key, value in cls.authors.items() if value != UNKNOWN}

    def build(self) -> None:
        """Create heads and state; runs under a seeded generator, after the encoders."""

    def passes(self, epochs: int) -> int:
        """Return how many passes over the data a budget of ``epochs`` buys; most: the same."""
        return epochs

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of the main optimiser."""
        return [ParameterGroup("all", list(self.parameters()))]

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return z_m, [B, d], for every modality used."""
        return {m: self.encoders[m](inputs[m]) for m in self.names}

    def on_fit_start(self) -> None:
        """Run once before the first epoch, not when a run is continued."""

    def on_epoch_start(self) -> None:
        """Run before the first step of an epoch, not when one is continued in its middle."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update; return scalars to log, ``loss`` among them, without waiting for them."""
        raise NotImplementedError

    def on_epoch_end(self, val: Mapping[str, Mapping[str, float]] | None) -> None:
        """Run after the evaluation of an epoch.

        Args:
            val: validation metrics, ``val[prediction][metric]`` with prediction ``fused`` or a
                modality; None when the protocol has no validation split.
        """

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return logits [B, C]: ``fused``, and one entry per modality used.

        A sample's logits must not depend on what else is in the batch.
        """
        raise NotImplementedError


def log_entries(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of each group under ``group/key``, as ``step`` returns what it logs.

    ``log_entries(loss={"audio": x})`` is ``{"loss/audio": x}``, a group that figures draw together.
    """
    return {f"{name}/{key}": v for name, values in groups.items() for key, v in values.items()}


def of_trainer(**settings: object) -> dict[str, object]:
    """Return settings of the trainer under the keys of ``Method.authors``: ``trainer.lr`` ...

    Raises:
        UserError: for a setting that the trainer does not have.
    """
    known = TrainerSettings.model_fields
    for name in settings:
        if name not in known:
            raise UserError(
                f"of_trainer: the trainer has no setting {name!r}{nearest(name, known)} "
                f"(it has {', '.join(known)})"
            )
    return {f"trainer.{name}": value for name, value in settings.items()}
