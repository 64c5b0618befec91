"""OGR-GB: blend unimodal and multimodal losses by how much each generalises for its overfitting.

Reference: Wang, Tran, Feiszli, "What Makes Training Multi-Modal Classification Networks Hard?",
CVPR 2020 (arXiv 1905.12681).

    L = sum_k w_k CE(o_k, y),  k over the modalities' own heads and the fused head

A branch k is trained for n epochs. Its mean loss on the training data is T_k and on data held out
of it V_k, before (0) and after (1), in eval mode:

    G_k = V_k(0) - V_k(1)                              what it gained on unseen data
    O_k = (V_k(1) - T_k(1)) - (V_k(0) - T_k(0))        what it overfitted
    w_k = (1 / Z) G_k / O_k^2,  sum_k w_k = 1

``offline`` estimates once, from the initial model, on copies that each train one branch; the
weights then stay. ``online`` does it again every n epochs, from the present model. ``joint``
(ours) trains no copies but reads the branches of the run itself every n epochs, beginning with
equal weights. Encoder and own head of different modalities share nothing, so one pass over the
data trains all unimodal branches at once, exactly; the fused branch needs a second.

The released code (Caffe2) takes the weights as constants and contains no estimator, so there is
no fidelity to follow beyond the blended loss. Guards, ours: a branch that gained nothing gets a
thousandth of the largest weight (``neg_gain``), O^2 + 1e-8, equal weights if nothing gained, and
no weight above 0.95.

Defaults as in BalanceBenchmark's trainer: ``offline`` estimates for as many epochs as the run has
(two more runs, at its first learning rate), ``online`` every 10; and ``joint`` as ``online``. A
tenth of the training data is held out, ours: the paper's own share could not be checked.

Beware of a branch that has hardly begun to learn when its estimate ends: G is small, but O lies
within the noise of the held-out losses, G / O^2 is huge, and as the weights sum to 1 all other
branches are left with a small part of the learning rate. G and O are logged as ``gain/K`` and
``overfit/K`` beside ``weight/K``.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.method import (
    UNKNOWN,
    Batch,
    Deviation,
    Method,
    MethodConfig,
    log_entries,
    of_trainer,
    setting,
)
from mmbench.nets.heads import ConcatHead, own_heads
from mmbench.nets.modes import evaluating
from mmbench.registry import register_method

BENCHMARK = "BalanceBenchmark: super_epoch"
REPEATED = 10  # epochs of an estimate that is repeated: its trainer_config.yaml
FLOOR, CAP, EPS = 1e-3, 0.95, 1e-8


class OGRGBConfig(MethodConfig):
    """Options of OGR-GB."""

    mode: Literal["offline", "online", "joint"] = setting(
        "offline", "estimate once, every n epochs, or from the run itself", source="paper"
    )
    held_out: float = setting(
        0.1, "share of train to measure generalisation on", source="methods.md section 2",
        gt=0, lt=1,
    )  # fmt: skip
    est_epochs: float | None = setting(
        None,
        "length n of an estimate, in est_unit; none: the run if offline, else 10 epochs",
        source=BENCHMARK, gt=0,
    )  # fmt: skip
    est_unit: Literal["fraction", "epochs"] = setting(
        "epochs", "est_epochs is a share of the run, or epochs", source="mmbench"
    )
    neg_gain: Literal["zero", "abs"] = setting(
        "zero", "a branch that lost: least weight, or its loss as a gain", source="mmbench"
    )

    @model_validator(mode="after")
    def _estimate_fits(self) -> Self:
        if self.est_unit == "fraction" and (self.est_epochs or 1) > 1:
            raise ValueError(
                f"est_epochs={self.est_epochs} is no share of the run: give at most 1, "
                "or set est_unit=epochs"
            )
        return self


def blend(gain: Tensor, overfit: Tensor, neg_gain: str = "zero") -> Tensor:
    """Return the weights w_k, which sum to 1.

    Args:
        gain: G_k, [K].
        overfit: O_k, [K].
        neg_gain: ``zero`` or ``abs``, for branches with G_k <= 0.
    """
    gain = gain.abs() if neg_gain == "abs" else gain.clamp_min(0)
    raw = gain / (overfit.square() + EPS)
    raw = raw.clamp_min(FLOOR * raw.max())
    if not (torch.isfinite(raw).all() and raw.sum() > 0):
        return torch.full_like(raw, 1 / len(raw))
    w = raw / raw.sum()
    rest = w.sum() - w.max()
    others = w * (1 - CAP) / rest.clamp_min(torch.finfo(w.dtype).tiny)
    return torch.where(w.max() > CAP, torch.where(w == w.max(), CAP, others), w)


@register_method("ogr-gb")
class OGRGB(Method):
    """Blend all losses by how much each branch generalises for its overfitting."""

    Config = OGRGBConfig
    config: OGRGBConfig
    version = 3  # offline: n is the whole run, not 10 epochs
    reference = "Wang, Tran, Feiszli, CVPR 2020"
    authors = of_trainer(lr=UNKNOWN, epochs=UNKNOWN, batch_size=UNKNOWN, schedule=UNKNOWN)
    deviations = (
        Deviation(
            None,
            "the weights are estimated",
            "the weights are constants, given by hand for each dataset",
            "No estimator was released; with the same weights the step is the same.",
        ),
    )
    w: Tensor
    before: Tensor
    evidence: Tensor

    def build(self) -> None:
        """Create own heads, the fusion head, the weights, G and O, and ``joint``'s last losses."""
        self.heads = own_heads(self.names, self.width, self.classes)
        self.fusion_head = ConcatHead(self.names, self.width, self.classes)
        self.branches = (*self.names, "fused")
        self.register_buffer("w", torch.full((len(self.branches),), 1 / len(self.branches)))
        self.register_buffer("before", torch.zeros(2, len(self.branches)))
        self.register_buffer("evidence", torch.zeros(2, len(self.branches)))

    @property
    def period(self) -> int:
        """The length n of an estimate, in epochs; at most the run's."""
        config, run = self.config, self.fit.epochs
        if config.est_epochs is None:
            return run if config.mode == "offline" else min(REPEATED, run)
        asked = config.est_epochs * (run if config.est_unit == "fraction" else 1)
        return min(max(1, round(asked)), run)

    def on_fit_start(self) -> None:
        """Set data aside, and estimate the weights that ``offline`` keeps."""
        self.fit.hold_out(self.config.held_out)
        if self.config.mode == "offline":
            self.estimate()

    def on_epoch_start(self) -> None:
        """Estimate anew at the boundaries of ``online`` and ``joint``."""
        if self.config.mode == "offline" or self.fit.epoch % self.period:
            return
        if self.config.mode == "online":
            self.estimate()
            return
        after = self.measure()
        if self.fit.epoch > 0:
            self._reweigh(self.before, after)
        self.before.copy_(after)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step on the blended loss."""
        losses = self.losses(batch)
        total = (self.w * torch.stack(list(losses.values()))).sum()
        self.fit.backward(total)
        self.fit.update()
        own = {k: loss.detach() for k, loss in losses.items()}
        gain, overfit = self.evidence.clone()
        rows = {"weight": self.w.clone(), "gain": gain, "overfit": overfit}
        more = {name: dict(zip(self.branches, row, strict=True)) for name, row in rows.items()}
        return {"loss": total, **log_entries(loss=own, **more)}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fused logits, and those of every modality's own head."""
        z = self.encode(inputs)
        return {"fused": self.fusion_head(z), **{m: self.heads[m](z[m]) for m in self.names}}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of every branch."""
        logits = self.predict(batch.inputs)
        return {k: cross_entropy(logits[k], batch.label) for k in self.branches}

    def estimate(self) -> None:
        """Set the weights from copies of model and optimiser that train one branch each."""
        before = self.measure()
        after = before.clone()
        # the unimodal branches share no parameter, so one pass trains them all
        for branches in (self.names, ("fused",)):
            with self.fit.sandbox():
                self._train_only(branches)
                reached = self.measure()
            columns = [self.branches.index(k) for k in branches]
            after[:, columns] = reached[:, columns]
        self._reweigh(before, after)

    def _train_only(self, branches: Iterable[str]) -> None:
        for epoch in range(self.period):
            for batch in self.fit.train_batches(tag=f"estimate {epoch}", augmented=True):
                losses = self.losses(batch)
                self.fit.backward(torch.stack([losses[k] for k in branches]).sum())
                self.fit.update()

    def _reweigh(self, before: Tensor, after: Tensor) -> None:
        """Set the weights from T (row 0) and V (row 1) before and after."""
        gain = before[1] - after[1]
        overfit = (after[1] - after[0]) - (before[1] - before[0])
        self.evidence.copy_(torch.stack([gain, overfit]))
        self.w.copy_(blend(gain, overfit, self.config.neg_gain))

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Return the mean loss per sample of every branch: on train and held out, [2, K]."""
        rows = []
        with evaluating(self):
            for batches in (self.fit.train_batches(tag="measure"), self.fit.held_out_batches()):
                total, samples = torch.zeros_like(self.w), 0
                for batch in batches:
                    losses = torch.stack(list(self.losses(batch).values()))
                    total += losses.to(total.dtype) * len(batch.label)
                    samples += len(batch.label)
                rows.append(total / samples)
        return torch.stack(rows)
