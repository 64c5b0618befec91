"""AGM: attribute the logits to modalities by Shapley values, and pace their gradients.

Each modality's own response is isolated by forwards in which the inputs of others are replaced by
zeros. The gradient that reaches a response is scaled by how far its lead over the others is now
from the running lead, so that a modality that jumps ahead of its usual lead is slowed.

Reference: Li, Li, Hu, Lei, Li, Zhou, "Boosting Multi-modal Model Performance with Adaptive
Gradient Modulation", ICCV 2023, pp. 22214-22224.

f(S) are the logits with the inputs outside S zero; f(empty) counts as 0. Proper subsets run in
eval mode, with gradients. For M modalities:

    phi_m = sum_{S without m} |S|! (M - |S| - 1)! / M! [f(S + m) - f(S)],   L = CE(sum_m phi_m, y)
    n_m   = mean_i -log max(softmax(phi_m)_{i, y_i}, 1e-8)
    r_m   = exp(M / (M - 1) (mean_j n_j - n_m));  tau_m: the same of the means of n over past steps
    c_m   = exp(alpha min(tau_m - r_m, cap))      multiplies dL/dphi_m, in the window

Afterwards, if an entry of the fusion weights' gradient exceeds ``clip_at``, the total gradient
norm is clipped to ``clip_at``; this acts outside the window too.

Because the fusion model joins features only in its head, f(S) needs the features of each encoder
under three conditions (whole pass, present, absent) and never 2^M - 1 passes; the absent input is
the same for all samples, so in eval mode one more row of the pass with all present stands for the
batch. The values and gradients are those of the 2^M - 1 forwards.

Deviations from the released code, each an option: ``after_window`` (its hooks keep the last c_m
for the rest of training), ``first_epoch`` (it counts epochs from 1), ``window_unit`` and ``ends``
(whole run; 0..20 there), ``guard`` (the exponent stays within 20 of zero), ``floor``. Its scripts
differ: CREMA-D caps at 10, UR-Funny (three modalities) at 7 without the floor and clips at 5; AVE,
AV-MNIST and MOSEI have no cap (``cap=off``); AVE does not clip (``clip=off``). ``mode:
encoder_scale`` is BalanceBenchmark's cheaper variant with the sign put right: padded passes without
gradient, L = CE(f(all), y), c_m on the gradients of encoder m.

Defaults: alpha 1.0 (argparse), cap and clip as in the CREMA-D script for two modalities and the
UR-Funny script for more; the floor of the CREMA-D script. ``--preset authors`` has rate and alpha
of the only command line that the authors give; it trains their baseline on AV-MNIST, so that
whether AGM itself was trained with them is not known.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.method import Batch, Deviation, Needs, log_entries, of_trainer, setting
from mmbench.nets.modes import evaluating
from mmbench.registry import register_method

from .arithmetic import at_least_fp32
from .gradients import in_scope, scale_gradients
from .modulated import Modulated, ModulatedConfig

CREMAD = "authors' CREMA-D script; UR-Funny for three modalities"
FLOOR = 1e-8  # authors' CREMA-D script
LIMIT = 20.0  # of the exponent: e^20 is already far beyond any useful step


class AGMConfig(ModulatedConfig):
    """Options of AGM."""

    alpha: float = setting(1.0, "strength", source="authors' argparse", ge=0)
    mode: Literal["logit_hook", "encoder_scale"] = setting(
        "logit_hook", "scale dL/dphi_m, or the encoders' gradients", source="paper"
    )
    cap: Annotated[float, Field(ge=0)] | Literal["auto", "off"] = setting(
        "auto", "upper bound of tau - r; auto: 10 for two modalities, 7 for more", source=CREMAD
    )
    floor: Annotated[float, Field(ge=0, lt=1)] | Literal["script"] = setting(
        FLOOR, "least probability inside n_m; 0: none; script: none for more than two modalities",
        source=CREMAD,
    )  # fmt: skip
    clip: Literal["official", "off"] = setting(
        "official", "clip when the fusion weights' gradient is large", source=CREMAD
    )
    clip_at: float | None = setting(
        None, "threshold and norm; none: 1 for two modalities, 5 for more", source=CREMAD, gt=0
    )
    after_window: Literal["reset", "stale"] = setting(
        "reset", "after the window c = 1, or the last c", source="mmbench"
    )
    first_epoch: Literal[0, 1] = setting(0, "number of the first epoch", source="mmbench")
    guard: bool = setting(True, "keep the exponent within 20 of zero", source="mmbench")
    uni_pred: Literal["shapley", "split_head"] = setting(
        "shapley", "unimodal logits: phi_m, or the head's split (cheaper)", source="paper"
    )


def shapley(f: Callable[[frozenset[str]], Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Return phi_m [B, C], whose sum over m is f(all).

    Args:
        f: logits [B, C] of a non-empty subset of modalities; called once for each.
        names: the modalities.
    """
    players = tuple(names)
    count = len(players)
    value = {
        frozenset(s): f(frozenset(s)) for r in range(1, count + 1) for s in combinations(players, r)
    }
    phi = {}
    for m in players:
        total = value[frozenset([m])] / count  # f(empty) is 0
        rest = [j for j in players if j != m]
        for size in range(1, count):
            weight = math.factorial(size) * math.factorial(count - size - 1)
            for s in map(frozenset, combinations(rest, size)):
                gain = value[s | {m}] - value[s]
                total = total + weight / math.factorial(count) * gain
        phi[m] = total
    return phi


def surprise(logits: Tensor, label: Tensor, floor: float) -> Tensor:
    """Return n = mean_i -log max(softmax(logits)_{i, y_i}, floor), a scalar."""
    each = cross_entropy(at_least_fp32(logits), label, reduction="none")
    return (each.clamp_max(-math.log(floor)) if floor else each).mean()


def leads(n: Tensor) -> Tensor:
    """Return r_m = exp(M / (M - 1) (mean n - n_m)) of scores n [M]; above 1: m is ahead."""
    return torch.exp(len(n) / (len(n) - 1) * (n.mean() - n))


def coefficients(
    r: Tensor, tau: Tensor, alpha: float, cap: float = math.inf, limit: float = math.inf
) -> Tensor:
    """Return c_m = exp(alpha min(tau_m - r_m, cap)) [M], the exponent within ``limit`` of 0."""
    most = math.exp(limit) if limit < math.inf else math.inf  # inf - inf would be NaN
    gap = tau.clamp_max(most) - r.clamp_max(most)
    return torch.exp((alpha * gap.clamp_max(cap)).clamp(-limit, limit))


@register_method("agm")
class AGM(Modulated):
    """Pace the gradient of each modality's Shapley response by its running lead."""

    Config = AGMConfig
    config: AGMConfig
    needs = Needs(min_modalities=2)
    reference = "Li et al., ICCV 2023"
    authors = of_trainer(lr=0.0001, epochs=100, batch_size=64, schedule="step", lr_step=0.7) | {
        "alpha": 2.5,
        "window_unit": "epochs",
        "ends": 20,
    }
    deviations = (
        Deviation("after_window", "reset", "stale", "The hooks keep the last c_m by accident."),
        Deviation("first_epoch", 0, 1, "Epochs count from 0 everywhere here."),
        Deviation("window_unit", "fraction", "epochs", "A shorter run is modulated alike."),
        Deviation("ends", 1.0, 20, "The running lead stays meaningful for the whole run."),
        Deviation("guard", True, False, "Without a bound the coefficient may overflow."),
        Deviation(
            "floor", FLOOR, "script", "Released: the script for three modalities has no floor."
        ),
        Deviation(
            None,
            "unimodal accuracies are each modality's own",
            "the CREMA-D script reports the visual accuracy as the audio's too",
            "A counter of the wrong modality; it changes no training.",
        ),
    )
    running: Tensor
    steps: Tensor
    scale: Tensor

    def build(self) -> None:
        """Create the fusion head, the running means of n, and the scales in use."""
        super().build()
        self.register_buffer("running", torch.zeros(len(self.names)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones(len(self.names)))

    @property
    def floor(self) -> float:
        """The least probability inside n_m."""
        if self.config.floor != "script":
            return self.config.floor
        return FLOOR if len(self.names) == 2 else 0.0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Attribute, weigh, and take one step on the cross-entropy of the attributed sum."""
        z = self.encode(batch.inputs)
        hooked = self.config.mode == "logit_hook"
        with torch.set_grad_enabled(hooked):
            phi = self.attribute(z if hooked else {m: t.detach() for m, t in z.items()}, batch)
        log = self._weigh(phi, batch.label)
        if hooked:
            for m, c in zip(self.names, self.scale.clone(), strict=True):
                phi[m].register_hook(lambda g, c=c: g * c.to(g.dtype))
            logits = torch.stack(list(phi.values())).sum(0)
        else:
            logits = self.fusion_head(z)
        loss = cross_entropy(logits, batch.label)
        self.fit.backward(loss)
        if not hooked:
            self._scale_encoders()
        if self.config.clip == "official":
            log["clipped"] = self._clip()
        self.fit.update()
        return {"loss": loss, **log}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fused logits f(all), and phi_m (or the head's split) per modality."""
        if self.config.uni_pred == "split_head":
            z = self.encode(inputs)
            return {"fused": self.fusion_head(z), **self.fusion_head.split(z)}
        present, absent = self._with_absent(inputs)
        phi = self._shapley(present, present, absent)
        return {"fused": self.fusion_head(present), **phi}

    def attribute(self, z: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return phi_m [B, C] from the features z_m of the whole pass in train mode."""
        with evaluating(self.encoders):
            present, absent = self._with_absent(batch.inputs)
        return self._shapley(z, present, absent)

    def _with_absent(
        self, inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the features [B, d] of the inputs, and of zero inputs, from one pass.

        One row of zeros is enough, as all are equal; a pass of its own would cost a GPU as many
        kernels as the whole batch. Batch statistics would see the row: for eval mode.
        """
        rows = {m: torch.cat([x, torch.zeros_like(x[:1])]) for m, x in inputs.items()}
        z = self.encode(rows)
        present = {m: t[:-1] for m, t in z.items()}
        return present, {m: t[-1:].expand_as(present[m]) for m, t in z.items()}

    def _shapley(
        self,
        full: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        absent: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        def logits(subset: frozenset[str]) -> Tensor:
            if len(subset) == len(self.names):
                return at_least_fp32(self.fusion_head(full))
            padded = {m: present[m] if m in subset else absent[m] for m in self.names}
            return at_least_fp32(self.fusion_head(padded))

        return shapley(logits, self.names)

    @torch.no_grad()
    def _weigh(self, phi: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Set ``scale``, move the running means, and return what to log."""
        config, pair = self.config, len(self.names) == 2
        n = torch.stack([surprise(phi[m], label, self.floor) for m in self.names])
        r, tau = leads(n), leads(self.running)
        cap = {"auto": 10.0 if pair else 7.0, "off": math.inf}.get(str(config.cap))
        cap = float(config.cap) if cap is None else cap
        c = coefficients(r, tau, config.alpha, cap, LIMIT if config.guard else math.inf)
        self.steps += 1
        self.running += (n.to(self.running.dtype) - self.running) / self.steps
        if config.acts(self.fit.epoch + config.first_epoch, self.fit.epochs):
            self.scale.copy_(c)
        elif config.after_window == "reset":
            self.scale.fill_(1.0)
        rows = {"score": n, "ratio": r, "tau": tau, "coefficient": c, "scale": self.scale.clone()}
        named = {k: dict(zip(self.names, row, strict=True)) for k, row in rows.items()}
        return log_entries(**named)

    @torch.no_grad()
    def _scale_encoders(self) -> None:
        for m, c in zip(self.names, self.scale, strict=True):
            scale_gradients(in_scope(self.encoders[m], "ndim>=2"), c)

    @torch.no_grad()
    def _clip(self) -> Tensor:
        """Clip all gradients to a total norm if one of the head's weights is steep; say if so."""
        at = self.config.clip_at or (1.0 if len(self.names) == 2 else 5.0)
        weights = [p.grad for p in self.fusion_head.parameters() if p.ndim >= 2]
        steep = torch.stack([g.abs().max() for g in weights if g is not None]).max() > at
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        # as torch clips, but the decision stays on the device: a factor of 1 changes nothing
        shrink = (at / (torch.nn.utils.get_total_norm(grads) + 1e-6)).clamp_max(1.0)
        factor = torch.where(steep, shrink, torch.ones_like(shrink))
        torch._foreach_mul_(grads, factor)
        return steep.to(factor.dtype)
