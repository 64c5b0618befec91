"""ReconBoost: boost the modalities in turn, each on what the others miss, then train them together.

Reference: Hua, Xu, Bao, Yang, Huang, "ReconBoost: Boosting Can Achieve Modality Reconcilement",
ICML 2024 (arXiv 2405.09321).

All modalities share a head of two layers. A stage belongs to modality k, in cyclic order. With
b the learned boost rate, p = softmax(b sum of o_j over the other modalities that have had a stage):

    phase 1 (encoder k, head):  -(1/C) (w1 - w2 p_y) log softmax(o_k)_y
                                + alpha MSE(softmax o_k, softmax o_prev)   from stage 1 on
    phase 2 (all so far, b):    CE(b sum_j o_j, y)
    fused = b sum_j o_j

Each phase begins with a fresh optimiser at the trainer's scheduled rate; ``stages_per_drop`` lowers
it further by stages, as the authors' scripts do, and is meant for ``trainer.schedule=constant``. A
phase-1 epoch costs 1/M of an ordinary one, so a budget of E epochs buys
floor(E / (e1 / M + e2)) stages, and at least one; ``pretrain_epochs`` count too.

Deviations from the released code, each an option: the agreement term has a gradient (both of its
arguments are detached there; ``mcr``); modalities that only give p are in eval mode (their batch
statistics move there; ``others_bn``); without another learner p is 0 (there 1, the softmax of a
single column; ``first_residual``); the weight decay is the trainer's (``weight_decay``).
``residual=full`` is the objective over all classes, as we recall the paper. More than two
modalities: o_prev is the modality of the stage before, as we read the released order.

Defaults: w1, w2 and alpha of the authors' CREMA-D script; one epoch per phase, as the budget of
100 epochs is small against their 1001 stages of four and four; no pretraining.
"""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from mmbench.method import (
    UNKNOWN,
    Batch,
    Deviation,
    Method,
    MethodConfig,
    Needs,
    ParameterGroup,
    log_entries,
    of_trainer,
    setting,
)
from mmbench.nets.heads import own_heads
from mmbench.nets.modes import evaluating
from mmbench.registry import register_method

from .arithmetic import at_least_fp32

CREMAD = "authors' CREMA-D script"
BUDGET = "mmbench; the authors' script has 4, for 1001 stages"


class ReconBoostConfig(MethodConfig):
    """Options of ReconBoost."""

    epochs_per_stage: int = setting(1, "epochs of phase 1 (e1)", source=BUDGET, ge=1)
    correct_epoch: int = setting(1, "epochs of phase 2 (e2)", source=BUDGET, ge=1)
    w1: float = setting(5.0, "weight of the label", source=CREMAD, ge=0)
    w2: float = setting(1.0, "weight of what the others predict", source=CREMAD, ge=0)
    alpha: float = setting(0.5, "weight of the agreement term", source=CREMAD, ge=0)
    mcr: Literal["on", "official_noop"] = setting(
        "on", "gradient of the agreement term", source="paper"
    )
    residual: Literal["target", "full"] = setting(
        "target", "the residual of the label alone, or of all classes", source=CREMAD
    )
    first_residual: Literal["zero", "one"] = setting(
        "zero", "p where there is no other learner", source="mmbench"
    )
    others_bn: Literal["eval", "official_bn"] = setting(
        "eval", "mode of the modalities that only give p", source="mmbench"
    )
    hidden: int = setting(256, "width of the shared head's hidden layer", source=CREMAD, ge=1)
    boost_rate: float = setting(1.0, "initial boost rate", source=CREMAD, ge=0)
    correct_lr_mult: float = setting(
        1.0, "learning rate of phase 2 over that of phase 1 (e_lr / m_lr)", source=CREMAD, gt=0
    )
    stages_per_drop: int = setting(
        0, "lower the rate every so many stages; 0: off", source=CREMAD, ge=0
    )
    drop_factor: float = setting(
        0.1, "what such a drop multiplies the rate by (AVE: 0.5)", source=CREMAD, gt=0, le=1
    )
    weight_decay: float | None = setting(
        None, "weight decay; none: the trainer's", source="mmbench", ge=0
    )
    pretrain_epochs: int = setting(
        0, "epochs in which every modality first learns alone", source="mmbench", ge=0
    )


def boosting_loss(
    logits: Tensor, others: Tensor, label: Tensor, w1: float, w2: float, residual: str = "target"
) -> Tensor:
    """Return -(1/C) mean_i sum_c t_ic log softmax(o_i)_c.

    Args:
        logits: o_k [B, C].
        others: p, the prediction of the others, [B, C].
        label: [B].
        w1: weight of the label.
        w2: weight of ``others``.
        residual: ``target``: t = y (w1 - w2 p); ``full``: t = w1 y - w2 p.
    """
    y = torch.zeros_like(logits).scatter(1, label[:, None], 1.0)
    target = y * (w1 - w2 * others) if residual == "target" else w1 * y - w2 * others
    return -(target * logits.log_softmax(1)).mean()


@register_method("reconboost")
class ReconBoost(Method):
    """Boost the modalities in turn, each on what the others miss, then train them together."""

    Config = ReconBoostConfig
    config: ReconBoostConfig
    needs = Needs(min_modalities=2)
    reference = "Hua et al., ICML 2024"
    authors = of_trainer(
        lr=0.01,
        epochs=6006,  # 1001 stages of 4 / 2 + 4 epochs
        batch_size=64,
        schedule="constant",
    ) | {
        "epochs_per_stage": 4,
        "correct_epoch": 4,
        "stages_per_drop": 30,
        "drop_factor": 0.1,
        "pretrain_epochs": UNKNOWN,  # recommended, without a number
        "weight_decay": 5e-4,
    }
    deviations = (
        Deviation("mcr", "on", "official_noop", "Released: the term has no gradient at all."),
        Deviation("others_bn", "eval", "official_bn", "A frozen modality should stay frozen."),
        Deviation("first_residual", "zero", "one", "Released: the softmax of one column is 1."),
        Deviation("weight_decay", None, 5e-4, "One protocol for all methods."),
    )

    def build(self) -> None:
        """Create the shared head, the boost rate, and heads for pretraining."""
        hidden = self.config.hidden
        self.head = nn.Sequential(
            nn.Linear(self.width, hidden), nn.ReLU(), nn.Linear(hidden, self.classes)
        )
        self.boost_rate = nn.Parameter(torch.tensor(self.config.boost_rate))
        if self.config.pretrain_epochs:
            self.own = own_heads(self.names, self.width, self.classes)
        self.begun = 0  # stages, the present one included

    def passes(self, epochs: int) -> int:
        """Return the passes that ``epochs`` buy: a phase-1 pass costs one modality of M."""
        e0, e1, e2 = (
            self.config.pretrain_epochs, self.config.epochs_per_stage, self.config.correct_epoch
        )  # fmt: skip
        count = len(self.names)
        stages = max(1, (epochs - e0) * count // (e1 + e2 * count))
        return e0 + stages * (e1 + e2)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the number of stages begun: it says who is in the ensemble."""
        return {"begun": self.begun}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_extra_state`` returned."""
        self.begun = state["begun"]

    @property
    def position(self) -> tuple[int, int]:
        """The stage (below 0 while pretraining), and the epoch within it."""
        length = self.config.epochs_per_stage + self.config.correct_epoch
        return divmod(self.fit.epoch - self.config.pretrain_epochs, length)

    @property
    def members(self) -> tuple[str, ...]:
        """The modalities in the ensemble: those that have had a stage, or were pretrained."""
        return self.names if self.config.pretrain_epochs else self.names[: self.begun]

    def logits(self, m: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return o_m [B, C]: by the shared head, or by its own until its first stage."""
        z = self.encoders[m](inputs[m])
        alone = self.config.pretrain_epochs and self.names.index(m) >= self.begun
        return at_least_fp32(self.own[m](z) if alone else self.head(z))

    def on_epoch_start(self) -> None:
        """Begin a phase with a fresh optimiser."""
        stage, within = self.position
        if stage < 0:
            return
        self.begun = stage + 1
        if within == 0:
            self._fresh([self.names[stage % len(self.names)]], [], 1.0)
        elif within == self.config.epochs_per_stage:
            self._fresh(self.members, [self.boost_rate], self.config.correct_lr_mult)

    def _fresh(self, names: Iterable[str], more: list[nn.Parameter], lr_mult: float) -> None:
        if self.config.stages_per_drop:
            lr_mult *= self.config.drop_factor ** (self.position[0] // self.config.stages_per_drop)
        encoders = [p for m in names for p in self.encoders[m].parameters()]
        group = ParameterGroup("phase", [*encoders, *self.head.parameters(), *more], lr_mult)
        self.fit.new_optimizer("main", [group], weight_decay=self.config.weight_decay)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the present phase."""
        stage, within = self.position
        if stage < 0:
            log = self._pretrain(batch)
        elif within < self.config.epochs_per_stage:
            log = self._boost(batch, stage)
        else:
            log = self._rectify(batch)
        self.fit.backward(log["loss"])
        self.fit.update()
        return {**log, "boost_rate": self.boost_rate.detach().clone()}

    def _pretrain(self, batch: Batch) -> dict[str, Tensor]:
        """Every modality learns alone, by its own head."""
        losses = {m: cross_entropy(self.logits(m, batch.inputs), batch.label) for m in self.names}
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total, **log_entries(loss=losses)}

    def _boost(self, batch: Batch, stage: int) -> dict[str, Tensor]:
        """Phase 1: the present modality fits what the others miss."""
        config, count = self.config, len(self.names)
        current, before = self.names[stage % count], self.names[(stage - 1) % count]
        own = self.logits(current, batch.inputs)
        others = self._frozen(batch, [m for m in self.members if m != current])
        if others:
            p = (self.boost_rate.detach() * torch.stack(list(others.values())).sum(0)).softmax(1)
        else:
            p = torch.full_like(own, 1.0 if config.first_residual == "one" else 0.0)
        loss = boosting_loss(own, p, batch.label, config.w1, config.w2, config.residual)
        log = {f"loss/boost/{current}": loss.detach()}
        if stage > 0:
            if config.others_bn == "official_bn":  # released: a second pass, which moves them again
                others = self._frozen(batch, [before])
            mine = own if config.mcr == "on" else own.detach()
            agreement = mse_loss(mine.softmax(1), others[before].softmax(1))
            loss = loss + config.alpha * agreement
            log["loss/agreement"] = agreement.detach()
        return {"loss": loss, **log}

    @torch.no_grad()
    def _frozen(self, batch: Batch, names: Iterable[str]) -> dict[str, Tensor]:
        """Return o_m [B, C] of modalities that are not trained now."""
        still = evaluating(self.encoders) if self.config.others_bn == "eval" else nullcontext()
        with still:
            return {m: self.logits(m, batch.inputs) for m in names}

    def _rectify(self, batch: Batch) -> dict[str, Tensor]:
        """Phase 2: all modalities in the ensemble, and the boost rate, on the plain loss."""
        outputs = torch.stack([self.logits(m, batch.inputs) for m in self.members])
        loss = cross_entropy(self.boost_rate * outputs.sum(0), batch.label)
        return {"loss": loss, "loss/rectify": loss.detach()}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every modality's logits, and the boosted sum of those in the ensemble."""
        logits = {m: self.logits(m, inputs) for m in self.names}
        members = self.members or self.names  # before any stage: all, as they are
        fused = torch.stack([logits[m] for m in members]).sum(0)
        return {"fused": self.boost_rate * fused, **logits}
