"""What a step does to the gradients; a recorded trajectory of released code, taken again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmbench.data.loader import Loader
from mmbench.dataset import SplitArrays
from mmbench.method import Batch
from mmbench.registry import METHODS

FOLDER = Path(__file__).parent / "golden"
EXACT, GUARDED = 1e-8, 1e-6  # the second for IPRM, whose slerp is guarded
# The losses of a file, by the names we log them under.
LOSSES = {
    "loss": ("total", "backward"), "loss/fused": ("fused",), "loss/a": ("a",), "loss/v": ("v",),
    "loss/t": ("t",), "loss/cls": ("cls",), "loss/con": ("con",),
    "loss/prototype/a": ("proto_a",), "loss/prototype/v": ("proto_v",),
    "loss/mix/a-v": ("mix", "mix_av"), "loss/mix/a-t": ("mix_at",), "loss/mix/v-t": ("mix_vt",),
}  # fmt: skip


def recorded(bench, batch, monkeypatch):
    """Step once; return the log and the gradients just before the update, by parameter's name."""
    found, update = {}, bench.trainer.update

    def recording(optimizer="main"):
        found.update({n: p.grad.clone() for n, p in bench.method.named_parameters()})
        update(optimizer)

    monkeypatch.setattr(bench.trainer, "update", recording)
    return bench.step(batch), found


def plain(value):
    """Return numbers, tensors, and lists of them without torch."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


@dataclass(frozen=True)
class Case:
    """How a file is followed.

    Attributes:
        file: its name.
        method: of ours.
        options: beside those of ``released``.
        logs: what we log and the file's array of it, one value per batch.
        epochs: the budget given to the trainer.
        visit: the epochs that were recorded.
        tolerance: absolute.
    """

    file: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    epochs: int = 1
    visit: tuple[int, ...] = (0,)
    tolerance: float = EXACT

    def __str__(self) -> str:
        return self.file if self.method in self.file else f"{self.file}-{self.method}"


class InOrder(Loader):
    """Draws the file's batches in the file's order, in every epoch."""

    def shuffled(self, index, *axes):
        return index


class Convolution(nn.Module):
    """A 1x1 convolution and ReLU on vectors, so that the encoder has a 4-D kernel."""

    width = 8

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Conv2d(size, self.width, 1)

    def forward(self, x):
        return self.layer(x[:, :, None, None]).relu().flatten(1)


class Replay:
    """A method at a file's start, inside the trainer; ``run`` trains and keeps what happened.

    Attributes:
        golden: the file's arrays.
        logs: what each step returned.
        seen: what ``watch`` returned before each step.
        raw: per update, the gradients after each backward pass, before the method changed them.
        gradients: per update, the gradients the optimiser was given.
        ends: per update, the parameters after it.
        predicted: per epoch, the logits of the evaluation batch after it.
    """

    def __init__(self, case: Case, make_bench, monkeypatch, **changed) -> None:
        self.case = case
        with np.load(FOLDER / f"{case.file}.npz") as data:
            self.golden = {k: data[k] for k in data.files}
        if "conv" in case.file:
            monkeypatch.setitem(make_bench.__globals__, "Affine", Convolution)
        self.modalities = tuple(m for m in "avt" if f"x_{m}" in self.golden)
        released = {**METHODS.load(case.method).released(), **case.options, **changed}
        lr = json.loads(str(self.golden["hyper"]))["lr"]
        bench = make_bench(case.method, self.modalities, lr=lr, epochs=case.epochs, **released)
        self.method, self.trainer = bench.method, bench.trainer
        # StepLR(70) never fires in the files
        self.trainer.settings = bench.trainer.settings.model_copy(update={"schedule": "constant"})
        self.trainer.loaders = {"train": self._loader("", 8), "val": self._loader("eval/", 6)}
        if "proto/y" in self.golden:  # the file's prototypes have samples of their own
            own = self._loader("proto/", 8)
            monkeypatch.setattr(self.trainer, "train_batches", lambda **_: own.everything())
        self.parameters = dict(self.method.named_parameters())
        keys = [k[5:] for k in self.golden if k.startswith("init/")]
        self.names = {k: self._ours(k) for k in keys}
        assert set(self.names.values()) == set(self.parameters)
        with torch.no_grad():
            for theirs, mine in self.names.items():
                self.parameters[mine].copy_(torch.as_tensor(self.golden[f"init/{theirs}"]))
        self.logs, self.seen, self.raw, self.gradients = [], [], [[]], []
        self.ends, self.predicted, self.rates = [], [], []

    def _loader(self, prefix: str, size: int) -> Loader:
        label = self.golden[f"{prefix}y"].reshape(-1)
        inputs = {m: self.golden[f"{prefix}x_{m}"].reshape(len(label), -1) for m in self.modalities}
        names = tuple(map(str, range(len(label))))
        split = SplitArrays(inputs, label, names, names)
        return InOrder([split], torch.device("cpu"), torch.float64, size, 0)

    def _ours(self, key: str) -> str:
        """Translate a parameter's name."""
        part, _, rest = key.partition(".")
        pair = part.removeprefix("head_mix").strip("_") or "av"
        candidates = [
            f"encoders.{part[4:]}.layer.{rest}", f"mix_heads.{pair[0]}__{pair[1]}.{rest}",
            f"heads.{part[5:]}.{rest}", f"fusion_head.heads.{part[5:]}.{rest}",
            *([f"fusion_head.linear.{rest}"] if part == "head_fused" else []),
            *([f"shared_head.{rest}", f"head.{rest}"] if part == "head_shared" else []), key,
        ]  # fmt: skip
        return next(name for name in candidates if name in self.parameters)

    def run(self, watch: Callable[[Batch], Any] = lambda batch: None) -> "Replay":
        """Train by ``Trainer.train``; ``watch`` is called before each step, without gradient."""
        method, trainer = self.method, self.trainer
        step, ended = method.step, method.on_epoch_end
        backward, update = trainer.backward, trainer.update

        def watched_step(batch):
            with torch.no_grad():
                self.seen.append(watch(batch))
            log = step(batch)
            self.logs.append({k: float(v.detach()) for k, v in log.items()})
            return log

        def watched_end(val):
            ended(val)
            self.predicted.append(self.predict())
            following = [e for e in self.case.visit if e > trainer.epoch]
            if following:
                trainer.epoch = following[0] - 1  # the loop goes on to the next one recorded

        def watched_backward(loss, *, retain_graph=False):
            backward(loss, retain_graph=retain_graph)
            self.raw[-1].append(self._gradients())

        def watched_update(optimizer="main"):
            self.gradients.append(self._gradients())
            self.rates.append(trainer.optimizers.by_name[optimizer].param_groups[0]["lr"])
            update(optimizer)
            self.ends.append({k: p.detach().clone() for k, p in self.parameters.items()})
            self.raw.append([])

        method.step, method.on_epoch_end = watched_step, watched_end
        trainer.backward, trainer.update = watched_backward, watched_update
        trainer.train()
        return self

    def _gradients(self):
        grads = {k: p.grad for k, p in self.parameters.items()}
        return {k: None if g is None else g.clone() for k, g in grads.items()}

    @torch.no_grad()
    def predict(self):
        (batch,) = self.trainer.loaders["val"].everything()
        return self.method.predict(batch.inputs)

    def check(self, actual, key, what=""):
        """Hold a value, or a stack of one per step, against the file."""
        found = np.array(plain(actual)).squeeze()
        np.testing.assert_allclose(
            found, self.golden[key].squeeze(), atol=self.case.tolerance, rtol=0,
            err_msg=f"{key} {what}",
        )  # fmt: skip

    def check_updates(self):
        """Hold the gradients and the parameters of every update against the file."""
        assert self.rates == [float(lr) for lr in self.golden["lr"]]
        for theirs, mine in self.names.items():
            self.check([end[mine] for end in self.ends], f"param/{theirs}")
            for number, found in enumerate(self.gradients):
                expected = self.golden[f"grad/{theirs}"][number]
                if not self.golden[f"gradmask/{theirs}"][number]:
                    assert np.isnan(expected).all()
                    assert found[mine] is None, f"{mine}, update {number}"
                    continue
                np.testing.assert_allclose(
                    found[mine], expected, atol=self.case.tolerance, rtol=0,
                    err_msg=f"gradient of {mine}, update {number}",
                )  # fmt: skip

    def check_logs(self):
        """Hold the losses and the diagnostics of every step against the file."""
        pairs = [(k, f"loss/{v}") for k, names in LOSSES.items() for v in names]
        pairs = [(k, v) for k, v in pairs if k in self.logs[0] and v in self.golden]
        assert pairs
        for mine, theirs in [*pairs, *((k, f"diag/{v}") for k, v in self.case.logs.items())]:
            self.check([log[mine] for log in self.logs], theirs, mine)

    def worst(self):
        """Return the largest difference of a parameter after the last update."""
        return max(
            float(np.abs(self.ends[-1][mine].numpy() - self.golden[f"param/{theirs}"][-1]).max())
            for theirs, mine in self.names.items()
        )
