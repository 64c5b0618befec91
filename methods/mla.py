"""MLA: train the modalities in turn through one head that does not forget the one before.

Each modality takes an optimiser step of its own, on its encoder and a head shared by all. So that
a step does not undo what the head learned from the previous modality, the head's gradient is
projected away from the directions of the features seen so far. At test time every sample weighs
its modalities by how sure they are.

Reference: Zhang, Yoon, Bansal, Yao, "Multimodal Representation Learning by Alternating Unimodal
Adaptation", CVPR 2024, pp. 27456-27466 (arXiv 2311.10707).

For every modality m in turn, with o_m = W z_m + b, r the mean of z_m over the batch, batch k of n:

    a  = 0.1^(1 + k / n),  q = P r
    P <- P - q q^T / (a + r^T q),  P <- P / |P|_F          (P starts as the identity)
    dL_m/dW <- dL_m/dW P^T                                 (all but the first step of the run)
    fused = sum_m w_m o_m,  w = softmax(-h),  h_m = entropy(softmax(o_m))

Deviations from the released code, each an option: its comparison of a parameter's name fails, so
that no gradient is ever projected (``projection``); were it to succeed, it would divide by a
matrix where the update has a scalar (``rls``); its evaluation weighs the modalities by constants
(``inference``), and its entropy, where used, runs over the batch, so that a prediction depends on
its neighbours (``inference=dynamic_official``); P is kept symmetric, and starts again if it is no
longer finite (``guard``).

Defaults: the specification's reading of the update; constants of ``fixed`` from the authors' main
scripts (0.55, 0.45 for audio and visual; 0.35, 0.25, 0.40 for audio, visual and text), in the
data's order. Their model of text and image has the text first: on data with the image first, give
``fixed_weights``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmbench.dataset import Task
from mmbench.method import (
    Batch,
    Deviation,
    Method,
    MethodConfig,
    Needs,
    ParameterGroup,
    of_trainer,
    setting,
)
from mmbench.registry import register_method

from .arithmetic import EPS, at_least_fp32

FIXED = {2: (0.55, 0.45), 3: (0.35, 0.25, 0.40)}  # authors' main scripts, by number of modalities
FLOOR = 1e-8  # least denominator of the update


class MLAConfig(MethodConfig):
    """Options of MLA."""

    projection: Literal["on", "off"] = setting(
        "on", "project the head's gradient", source="paper; the released code never does"
    )
    rls: Literal["scalar", "elementwise"] = setting(
        "scalar", "what the update of P divides by", source="recursive least squares"
    )
    fro_norm: bool = setting(True, "divide P by its Frobenius norm", source="authors' plugin")
    guard: bool = setting(True, "keep P symmetric and finite", source="mmbench")
    head_lr_mult: float = setting(
        1.0, "factor on the head's learning rate, as P shrinks its gradient", source="mmbench", gt=0
    )
    inference: Literal["dynamic", "fixed", "dynamic_official"] = setting(
        "dynamic", "weights by confidence, constant, or the released entropy", source="paper"
    )
    fixed_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = setting(
        None, "weights of inference=fixed; none: the authors', else equal", source="authors' mains"
    )

    @model_validator(mode="after")
    def _weights_weigh(self) -> Self:
        if self.fixed_weights is not None and not any(self.fixed_weights):
            raise ValueError("fixed_weights are all 0: give at least one modality a weight")
        return self


def forget(p: Tensor, r: Tensor, a: float, rls: str = "scalar", floor: float = 0.0) -> Tensor:
    """Return P - q q^T / (a + r^T q) with q = P r, before any normalisation.

    Args:
        p: [d, d].
        r: [d], the direction to protect.
        a: regulariser, > 0.
        rls: ``elementwise`` divides by the matrix a + q r^T, as the public copies do.
        floor: least denominator of ``scalar``.
    """
    q = p @ r
    if rls == "elementwise":
        return p - torch.outer(q, q) / (a + torch.outer(q, r))
    return p - torch.outer(q, q) / (a + r @ q).clamp_min(floor)


def confidence(logits: Mapping[str, Tensor], axis: int = 1) -> Tensor:
    """Return the weights of the modalities, softmax of minus the entropy: [M, B].

    Args:
        logits: per modality [B, C].
        axis: 1: of each sample; 0: the released reading, one entropy of the whole batch, [M, 1].
    """
    logs = torch.stack([at_least_fp32(o).log_softmax(axis) for o in logits.values()])
    terms = -logs.exp() * logs
    entropy = terms.sum(2) if axis == 1 else terms.sum((1, 2))[:, None]
    return (-entropy).softmax(0)


@register_method("mla")
class MLA(Method):
    """Train the modalities in turn through one head that does not forget the one before."""

    Config = MLAConfig
    config: MLAConfig
    needs = Needs(min_modalities=2)
    reference = "Zhang et al., CVPR 2024"
    authors = of_trainer(lr=0.001, epochs=100, batch_size=64, schedule="step", lr_step=0.7)
    deviations = (
        Deviation(
            "projection", "on", "off", "Released: a name that never matches; P is never used."
        ),
        Deviation("rls", "scalar", "elementwise", "Entries of a matrix quotient change sign."),
        Deviation("guard", True, False, "Rounding makes P asymmetric."),
        Deviation("inference", "dynamic", "fixed", "Released: unless --dynamic is given."),
    )
    P: Tensor
    resets: Tensor

    @classmethod
    def refuse(cls, task: Task, config: Any) -> str | None:  # Any: as in Method
        """Refuse a number of fixed weights that is not the number of modalities."""
        given, count = config.fixed_weights, len(task.modalities)
        if given is not None and len(given) != count:
            return f"{cls.name}.fixed_weights has {len(given)} entries; the data has {count}"
        return super().refuse(task, config)

    def build(self) -> None:
        """Create the shared head and the projection."""
        self.head = nn.Linear(self.width, self.classes)
        self.register_buffer("P", torch.eye(self.width))
        self.register_buffer("resets", torch.zeros(()))
        equal = (1 / len(self.names),) * len(self.names)
        self.fixed = self.config.fixed_weights or FIXED.get(len(self.names), equal)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The encoders, and the head with its own factor."""
        return [
            ParameterGroup("encoders", list(self.encoders.parameters())),
            ParameterGroup("head", list(self.head.parameters()), self.config.head_lr_mult),
        ]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One forward of all encoders, then one optimiser step per modality, in order."""
        z = self.encode(batch.inputs)
        log: dict[str, Tensor] = {}
        for m in self.names:
            loss = cross_entropy(self.head(z[m]), batch.label)
            self.fit.backward(loss)
            log[f"loss/{m}"] = loss
            first = self.fit.step == 0 and m == self.names[0]  # of the run: nothing to protect
            log |= {f"{k}/{m}": v for k, v in self._project(z[m].detach(), first).items()}
            self.fit.update()
        losses = torch.stack([log[f"loss/{m}"].detach() for m in self.names])
        return {"loss": losses.mean(), **log, "resets": self.resets.clone()}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every modality's logits by the shared head, and their weighted sum."""
        logits = {m: self.head(z) for m, z in self.encode(inputs).items()}
        if self.config.inference == "fixed":
            parts = [w * o for w, o in zip(self.fixed, logits.values(), strict=True)]
        else:
            weights = confidence(logits, axis=1 if self.config.inference == "dynamic" else 0)
            parts = [w[:, None] * o for w, o in zip(weights, logits.values(), strict=True)]
        return {"fused": torch.stack(parts).sum(0), **logits}

    @torch.no_grad()
    def _project(self, z: Tensor, first: bool) -> dict[str, Tensor]:
        """Move P, replace the gradient of W, and return what to log."""
        grad = self.head.weight.grad
        assert grad is not None
        before = grad.norm()
        if self.config.projection == "on" and not first:
            with torch.autocast(z.device.type, enabled=False):
                self.P.copy_(self._moved(z.to(self.P.dtype).mean(0)))
                grad.copy_(grad @ self.P.T)
        return {"head_gradient": grad.norm(), "kept": grad.norm() / before.clamp_min(EPS)}

    def _moved(self, r: Tensor) -> Tensor:
        """Return P after seeing the mean feature ``r`` [d]."""
        config, fit = self.config, self.fit
        a = 0.1 ** (1 + fit.step_in_epoch / fit.steps_per_epoch)
        p = forget(self.P, r, a, config.rls, FLOOR if config.guard else 0.0)
        if config.guard:
            p = (p + p.T) / 2
        if config.fro_norm:
            p = p / p.norm()
        if config.guard:
            finite = torch.isfinite(p).all()
            self.resets += (~finite).to(self.resets.dtype)
            p = torch.where(finite, p, torch.eye(len(p), dtype=p.dtype, device=p.device))
        return p
