"""The one training loop, readable from top to bottom, and what it offers to methods."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbench.data.loader import Loader
from mmbench.errors import NonFiniteLoss, StopRequested
from mmbench.method import Batch, Method, ParameterGroup, offered
from mmbench.ranks.encoders import Split
from mmbench.ranks.group import ALONE, Ranks
from mmbench.record import EpochRow, Metrics, now
from mmbench.settings import TrainerSettings
from mmbench.training import checkpoint
from mmbench.training.device import synchronize
from mmbench.training.evaluation import evaluate
from mmbench.training.meter import Meter
from mmbench.training.optimizers import Optimizers
from mmbench.training.schedule import lr_at
from mmbench.training.seeding import derive, generator, seed_everything
from mmbench.wording import counted

SOON = 3.0  # seconds: epochs shorter than this do not each end in a checkpoint
NORM_EVERY = 10  # steps of an epoch between two measurements of the encoders' gradients


@dataclass
class Best:
    """The selected epoch so far, with the weights it had."""

    epoch: int = -1
    value: float = float("-inf")
    state: dict[str, Any] = field(default_factory=dict)


@dataclass
class Hooks:
    """How the world outside watches and stops a run; none of it changes the result.

    Attributes:
        stop: asked at every step boundary; may raise ``LeaseLost``.
        progress: told what ``mmbench status`` shows.
        checkpoint_seconds: also write a checkpoint inside an epoch after this long.
        before_record: raises ``LeaseLost`` if the record is no longer this process's to write.
        trained: given the method at the selected epoch, and the test split; must not change it.
    """

    stop: Callable[[], bool] = lambda: False
    progress: Callable[[dict[str, Any]], None] = lambda values: None
    checkpoint_seconds: float = 60.0
    before_record: Callable[[], None] = lambda: None
    trained: Callable[[Method, Loader], None] = lambda method, test: None


class Trainer:
    """Trains one method on one dataset; the method sees of it what ``mmbench.Fit`` names.

    Args:
        method: already on the device.
        loaders: ``train`` and the split that selects the epoch (``val`` or ``test``), no other:
            what is not here cannot leak into training.
        select: name of that split.
        settings: what to do.
        seed: of order, augmentation, dropout and the method's own draws.
        folder: where checkpoints go.
        hooks: progress, stopping, checkpoint interval.
        ranks: the processes that train the method together, each with a trainer of its own.
    """

    def __init__(
        self,
        method: Method,
        loaders: Mapping[str, Loader],
        select: str,
        settings: TrainerSettings,
        seed: int,
        folder: Path,
        *,
        hooks: Hooks | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.method, self.loaders, self.select = method, loaders, select
        self.settings, self.seed, self.folder = settings, seed, folder
        self.hooks = hooks or Hooks()
        self.ranks, self.split = ranks, Split(method, ranks)
        self.device = loaders["train"].device
        self.epochs = method.passes(settings.epochs)
        self.epoch = self.step = self.step_in_epoch = self.resumed = 0
        self.index = torch.arange(len(loaders["train"]))
        self.held = torch.empty(0, dtype=torch.int64)
        self.held_fraction = 0.0
        self.optimizers = Optimizers(method, settings)
        self.meter, self.norms = Meter(self.device), Meter(self.device)
        self.best = Best()
        self.curve: list[EpochRow] = []
        self.epoch_seconds = 0.0
        self.started, self.earlier = now(), 0.0  # of the first session; seconds before this one
        self._begun = self._saved_at = time.monotonic()

    # ------------------------------------------------------------------ the loop

    def train(self) -> None:
        """Train to the end, continuing from the newest whole checkpoint if there is one.

        Raises:
            NonFiniteLoss: with the epoch and step.
            StopRequested: after writing a checkpoint.
        """
        self.method.fit = offered(self)
        self.method.train()
        if not self._resume():
            seed_everything(derive(self.seed, "fit"))
            self.optimizers.create("main", self.method.parameter_groups())
            self.optimizers.set_lr(self.lr)  # a method may train there, on trial
            with self.autocast():
                self.method.on_fit_start()
        self.hooks.progress({"epoch": self.epoch - 1, "epochs": self.epochs})
        while self.epoch < self.epochs:
            if self.step_in_epoch == 0:
                self.meter.reset()
                self.norms.reset()
                self.epoch_seconds = 0.0
                self.optimizers.set_lr(self.lr)
                with self.autocast():
                    self.method.on_epoch_start()
            self._train_epoch()
            self.split.align()
            when = f"at the end of epoch {self.epoch + 1}, step {self.step_in_epoch}"
            metrics = evaluate(self.method, self.loaders[self.select], when)
            self._select(metrics)
            with self.autocast():
                self.method.on_epoch_end(metrics if self.validates else None)
            self._add_row(metrics)
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
            asked = self._asked_to_stop()
            if asked or self._unsaved >= min(SOON, self.hooks.checkpoint_seconds):
                self._save()
            self._report(metrics)
            if asked:
                raise self._stopped()

    def autocast(self) -> torch.autocast:
        """Return the context of everything that a method does in training.

        Without torch's cache of cast weights: a method may step between two uses of a weight, or
        use it without gradients first (which torch before 2.11 would then go on with).
        """
        on = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, on, cache_enabled=False)

    def _train_epoch(self) -> None:
        synchronize(self.device)  # what was begun before is not of the epoch
        self.train_steps()
        started = time.perf_counter()
        synchronize(self.device)
        self.epoch_seconds += time.perf_counter() - started
        bad = self.meter.first_bad()  # the one wait of the epoch
        if bad >= 0:
            raise NonFiniteLoss(
                f"the loss is not finite at epoch {self.epoch + 1}, step {bad + 1}",
                "lower trainer.lr, or set trainer.clip_norm"
                + ("; or is it the data? mmbench verify tells" if bad == self.epoch == 0 else ""),
            )

    def train_steps(self) -> None:
        """Take the steps that are left of this epoch, without waiting for the device."""
        started = time.perf_counter()
        batches = self.loaders["train"].training(self.index, self.epoch, self.step_in_epoch)
        for batch in batches:
            with self.autocast():
                logged = self.method.step(batch)
            self.meter.watch(logged["loss"], self.step_in_epoch)
            self.meter.add(logged)
            self.step += 1
            self.step_in_epoch += 1
            if self._unsaved >= self.hooks.checkpoint_seconds:
                synchronize(self.device)
                self.epoch_seconds += time.perf_counter() - started
                self._save()
                started = time.perf_counter()
            if self._asked_to_stop():
                synchronize(self.device)
                self.epoch_seconds += time.perf_counter() - started
                self._save()
                raise self._stopped()
        self.epoch_seconds += time.perf_counter() - started

    def _select(self, metrics: Metrics) -> None:
        value = metrics["fused"][self.method.task.primary]
        if value > self.best.value:  # the first maximum wins
            self.best = Best(self.epoch, value, checkpoint.clone(dict(self.method.state_dict())))

    def _add_row(self, metrics: Metrics) -> None:
        row = EpochRow(
            epoch=self.epoch,
            lr=self.lr,
            train=self._finite(self.meter.means()),
            gradient_norm=self._finite(self.norms.means()),
            seconds=self.epoch_seconds,
            **{self.select: metrics},
        )
        self.curve.append(row)

    def _finite(self, means: dict[str, float]) -> dict[str, float]:
        """Leave out what JSON cannot hold, and say so; a loss that is not finite ends a run."""
        bad = sorted(name for name, mean in means.items() if not isfinite(mean))
        if bad:
            self.hooks.progress(
                {"warning": f"left out of epoch {self.epoch + 1}, not finite: {', '.join(bad)}"}
            )
        return {name: mean for name, mean in means.items() if name not in bad}

    def _report(self, metrics: Metrics) -> None:
        primary = self.method.task.primary
        self.hooks.progress(
            {
                "epoch": self.epoch - 1,  # the one that has just ended
                "epochs": self.epochs,
                "seconds_per_epoch": self.epoch_seconds,
                "split": self.select,
                "metrics": {name: values[primary] for name, values in metrics.items()},
            }
        )

    def _stopped(self) -> StopRequested:
        return StopRequested(
            f"stopped in epoch {self.epoch + 1}, after {counted(self.step_in_epoch, 'step')}"
        )

    def _asked_to_stop(self) -> bool:
        try:
            asked = self.hooks.stop()
        except StopRequested:  # of its own kind, which the others need not know
            self.ranks.any(True)
            raise
        return self.ranks.any(asked)

    # ------------------------------------------------------------------ saving

    def state(self) -> dict[str, Any]:
        """Return everything a run needs to go on; its tensors are those in use, not copies."""
        return {
            "model": dict(self.method.state_dict()),
            "optimizers": self.optimizers.state(),
            "rng": checkpoint.rng_state(self.device),
            "counters": [self.epoch, self.step, self.step_in_epoch],
            "meters": [self.meter.state(), self.norms.state()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.method.load_state_dict(state["model"])
        self.optimizers.load(state["optimizers"])
        self.epoch, self.step, self.step_in_epoch = state["counters"]
        self.meter.load(state["meters"][0])
        self.norms.load(state["meters"][1])
        self.optimizers.zero_grad()
        checkpoint.set_rng_state(state["rng"], self.device)

    @property
    def total_seconds(self) -> float:
        """Seconds since the run began, without those in which it was stopped."""
        return self.earlier + time.monotonic() - self._begun

    @property
    def _unsaved(self) -> float:
        """Seconds since the last checkpoint, or since the beginning."""
        return time.monotonic() - self._saved_at

    def _save(self) -> None:
        if not self.ranks.first:
            return
        state = self.state()
        state["started"], state["total_seconds"] = self.started, self.total_seconds
        state["best"] = asdict(self.best)
        state["curve"] = [row.model_dump_json() for row in self.curve]
        state["held_fraction"] = self.held_fraction
        state["epoch_seconds"], state["resumed"] = self.epoch_seconds, self.resumed
        checkpoint.save(self.folder, self.step, state)
        self._saved_at = time.monotonic()

    def _resume(self) -> bool:
        state = self._newest()
        if state is None:
            return False
        if state["held_fraction"]:
            self.hold_out(state["held_fraction"])
        self.best = Best(**state["best"])
        self.curve = [EpochRow.model_validate_json(row) for row in state["curve"]]
        self.epoch_seconds, self.resumed = state["epoch_seconds"], state["resumed"] + 1
        self.started, self.earlier = state["started"], state["total_seconds"]
        self.load(state)
        return True

    def _newest(self) -> dict[str, Any] | None:
        """Return the newest whole checkpoint; the first process says which one all read."""
        state, complaints = checkpoint.latest(self.folder) if self.ranks.first else (None, [])
        for complaint in complaints:
            self.hooks.progress({"warning": complaint})
        step = self.ranks.number(state["counters"][1] if state else -1)
        if self.ranks.first or step < 0:
            return state
        return checkpoint.read(checkpoint.of_step(self.folder, step))

    # ------------------------------------------------------------------ what a method may ask for

    @property
    def lr(self) -> float:
        """The scheduled base learning rate of this epoch."""
        return self.lr_at(self.epoch)

    def lr_at(self, epoch: int) -> float:
        """The scheduled base learning rate of ``epoch``."""
        return lr_at(self.settings, epoch, self.epochs)

    @property
    def validates(self) -> bool:
        """Whether a validation split is evaluated after each epoch."""
        return self.select == "val"

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches in an epoch."""
        return self.loaders["train"].steps(len(self.index))

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Add the gradients of ``loss``; outside autocast, as torch advises."""
        with torch.autocast(self.device.type, enabled=False), self.split.backward():
            loss.backward(retain_graph=retain_graph)

    def update(self, optimizer: str = "main") -> None:
        """Clip if asked, take one optimiser step, set all gradients to None."""
        if self.step_in_epoch % NORM_EVERY == 0:
            self._measure_norms()
        chosen = self.optimizers.by_name[optimizer]
        if self.settings.clip_norm is not None:
            parameters = [p for g in chosen.param_groups for p in g["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        chosen.step()
        self.optimizers.zero_grad()

    def _measure_norms(self) -> None:
        found = {}
        for name, encoder in self.method.encoders.items():
            grads = [p.grad for p in encoder.parameters() if p.grad is not None]
            if grads:
                found[name] = torch.nn.utils.get_total_norm(grads)
        self.norms.add(found)

    def new_optimizer(
        self,
        name: str,
        groups: Iterable[ParameterGroup],
        *,
        weight_decay: float | None = None,
    ) -> None:
        """Create or replace an optimiser; see ``mmbench.Fit``."""
        self.optimizers.create(name, groups, weight_decay)
        self.optimizers.set_lr(self.lr)

    def scale_lr(self, group: str, factor: float) -> None:
        """Set the factor of a group of the main optimiser, from now on."""
        self.optimizers.scale(group, factor)

    def generator(self, tag: str) -> torch.Generator:
        """Return a generator on the device, seeded by (seed, tag, step)."""
        return generator(self.device, self.seed, tag, self.step)

    def train_batches(self, *, tag: str = "pass", augmented: bool = False) -> Iterator[Batch]:
        """Iterate over training data, ordered by (tag, epoch); see ``mmbench.Fit``."""
        loader = self.loaders["train"]
        index = loader.shuffled(self.index, tag, self.epoch)
        for step, batch in enumerate(loader.in_order(index)):
            if not augmented:
                yield batch
            elif step == 0 or len(batch.label) > 1:  # as in training: batch statistics need two
                yield loader.augmented(batch, tag, self.epoch, step)

    def hold_out(self, fraction: float) -> None:
        """Take a stratified share of the training data away; the choice depends on the seed."""
        loader = self.loaders["train"]
        everyone = torch.arange(len(loader))
        held = torch.zeros(len(loader), dtype=torch.bool)
        for label in loader.label.unique():
            of_class = loader.shuffled(everyone[loader.label == label], "hold-out", int(label))
            most = max(1, round(fraction * len(of_class)))
            held[of_class[: min(most, len(of_class) - 1)]] = True  # an only sample is trained on
        self.index, self.held_fraction = everyone[~held], fraction
        self.held = loader.shuffled(everyone[held], "held-out order")

    def held_out_batches(self) -> Iterator[Batch]:
        """Iterate over what ``hold_out`` took away, in an order that stays."""
        return self.loaders["train"].in_order(self.held)

    @contextmanager
    def sandbox(self) -> Iterator[None]:
        """Run the body on the live model, then restore model, optimisers and RNG exactly."""
        before = checkpoint.clone(self.state())
        try:
            yield
        finally:
            self.load(before)
