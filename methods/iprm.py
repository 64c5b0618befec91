"""IPRM: probe how far each modality is from their mixture, and re-mix at once.

Yang, Wu, Jiang, "Towards Equilibrium: An Instantaneous Probe-and-Rebalance Multimodal Learning
Approach", IJCAI 2025, pp. 3552-3560. With u_m the normalised features and one mix head per pair:
    probe   obar = mix(slerp(u_a, u_v; lambda_a, lambda_v)), no gradient
            K_m = mean_i KL(softmax o_m || softmax obar)
    weigh   omega_a = K_v / (K_a + K_v), omega_v = K_a / (K_a + K_v)
    learn   L = CE(mix(slerp(u_a, u_v; omega_a, omega_v))) + sum_m CE(o_m)
    keep    lambda <- alpha lambda + (1 - alpha) omega, from 1/2
    predict sum_m o_m + mean over pairs of mix(slerp(u_a, u_v; lambda))

Deviations: the ratios and slerp are guarded (identical predictions, parallel, opposite and zero
features), where the released code divides by zero or returns the zero vector; each modality has
its own head, where the released trimodal script sends the third through the second's. Variants
(``mixup``, ``ema``, ``passes``, ``pairing``) follow methods.md section 11.1, which marks what is
a reading of the talk's slides. Defaults: the authors' launch lines (alpha 0.8) and script.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, normalize

from mmbench.method import Batch, Deviation, Method, MethodConfig, Needs
from mmbench.nets.heads import own_heads
from mmbench.registry import register_method
from mmbench.settings import setting

SCRIPT, TALK = "IPRM script", "IPRM talk; methods.md section 11.1"
EPS = 1e-12


class IPRMConfig(MethodConfig):
    """Options of IPRM."""

    alpha: float = setting(0.8, "EMA weight of the past", source="IPRM launch lines", ge=0, le=1)
    style: Literal["tri_cls", "single_cls"] = setting(
        "tri_cls", "one mix head per pair, or one for a pair drawn each step", source=SCRIPT
    )
    mixup: Literal["geodesic", "linear"] = setting("geodesic", "how features mix", source=TALK)
    linear_on: Literal["normalised", "raw"] = setting(
        "normalised", "what linear mixup mixes", source=TALK
    )
    ema: Literal["on", "off", "half"] = setting(
        "on", "off: lambda is the last omega; half: lambda stays 1/2", source=TALK
    )
    ema_init: Literal["half", "omega0"] = setting(
        "half", "lambda before the first update", source=SCRIPT
    )
    passes: Literal["two", "one", "one_raw"] = setting(
        "two", "one: learn with lambda; one_raw: with the last omega", source=TALK
    )
    omega: Literal["closer", "inverse", "half"] = setting(
        "closer", "which modality gets the larger weight", source=SCRIPT
    )
    infer_lambda: Literal["ema_last", "ema_next", "half"] = setting(
        "ema_last", "the weight at inference", source=SCRIPT
    )
    pairing: Literal["paired", "same_class", "none"] = setting(
        "paired", "whose features are mixed in training", source=TALK
    )
    third_head: Literal["own", "second"] = setting(
        "own", "head of the third modality", source="methods.md section 11"
    )


def slerp(u: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Mix unit rows u, v [B, d] on the sphere; ``weight`` (scalar) is u's, v has the rest.

    Where the angle is near 0 or pi, linear interpolation stands in: there sin(theta) vanishes.
    """
    gap = ((u - v).square().sum(1, keepdim=True) + EPS).sqrt()
    total = ((u + v).square().sum(1, keepdim=True) + EPS).sqrt()
    theta = 2 * torch.atan2(gap, total)
    flat = theta.sin().abs() < 1e-4
    safe = torch.where(flat, torch.ones_like(theta), theta)  # no NaN gradient passes the where
    curved = ((weight * safe).sin() * u + ((1 - weight) * safe).sin() * v) / safe.sin()
    line = weight * u + (1 - weight) * v
    parallel = (u * v).sum(1, keepdim=True) > 0
    return torch.where(flat, torch.where(parallel, normalize(line, dim=1, eps=EPS), line), curved)


def divergence(logits: Tensor, mixed: Tensor) -> Tensor:
    """Return K = mean_i KL(softmax(logits_i) || softmax(mixed_i)) in nats, a scalar."""
    return kl_div(
        mixed.log_softmax(1), logits.log_softmax(1), log_target=True, reduction="batchmean"
    )


def strength(k_own: Tensor, k_other: Tensor) -> Tensor:
    """Return omega of the modality whose divergence is ``k_own``; 1/2 if both vanish."""
    return (k_other + EPS) / (k_own + k_other + 2 * EPS)


@register_method("iprm")
class IPRM(Method):
    """Probe how far each modality is from their mixture, and re-mix at once."""

    Config = IPRMConfig
    config: IPRMConfig
    needs = Needs(min_modalities=2)
    reference = "Yang, Wu, Jiang, IJCAI 2025"
    authors = {"trainer.lr": 0.01, "trainer.epochs": 100, "alpha": 0.8}
    deviations = (Deviation("third_head", "own", "second", "Released: head 3 is never trained."),)
    lam: Tensor
    lam_used: Tensor
    omega: Tensor
    seen: Tensor

    def build(self) -> None:
        """Create own heads, mix heads, and the state per pair."""
        self.heads = own_heads(self.names, self.width, self.classes)
        self.pairs = tuple(combinations(self.names, 2))
        keys = ["all"] if self.config.style == "single_cls" else ["__".join(p) for p in self.pairs]
        self.mix_heads = nn.ModuleDict({k: nn.Linear(self.width, self.classes) for k in keys})
        for name in ("lam", "lam_used", "omega"):
            self.register_buffer(name, torch.full((len(self.pairs),), 0.5))
        self.register_buffer("seen", torch.zeros(len(self.pairs), dtype=torch.bool))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Probe, weigh, learn, keep; one encoder pass."""
        z = self.encode(batch.inputs)
        own = self._own(z)
        losses = {m: cross_entropy(o, batch.label) for m, o in own.items()}
        log = {f"loss/{m}": loss for m, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum()
        for index in self._drawn():
            mix_loss, pair_log = self._pair(index, z, own, batch)
            total = total + mix_loss
            log.update(pair_log)
        self.fit.backward(total)
        self.fit.update()
        return {"loss": total, **log}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum of all own logits and the mean of the pairs' mix logits."""
        z = self.encode(inputs)
        own = self._own(z)
        weights = {
            "ema_last": self.lam_used,
            "ema_next": self.lam,
            "half": torch.full_like(self.lam, 0.5),
        }[self.config.infer_lambda]
        mixed = [
            self._mix_head(i)(self._mix(z[a], z[b], weights[i]))
            for i, (a, b) in enumerate(self.pairs)
        ]
        fused = torch.stack(list(own.values())).sum(0) + torch.stack(mixed).mean(0)
        return {"fused": fused, **own}

    def _own(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = {m: m for m in self.names}
        if self.config.third_head == "second" and len(self.names) == 3:
            heads[self.names[2]] = self.names[1]
        return {m: self.heads[heads[m]](z[m]) for m in self.names}

    def _drawn(self) -> list[int]:
        if self.config.style == "tri_cls":
            return list(range(len(self.pairs)))
        # on the CPU, so that drawing a pair does not wait for the device
        draw = torch.Generator().manual_seed(self.fit.seed * 1_000_003 + self.fit.step)
        return [int(torch.randint(len(self.pairs), (), generator=draw))]

    def _mix_head(self, index: int) -> nn.Module:
        key = "all" if self.config.style == "single_cls" else "__".join(self.pairs[index])
        return self.mix_heads[key]

    def _mix(self, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
        if self.config.mixup == "linear" and self.config.linear_on == "raw":
            return weight * first + (1 - weight) * second
        u, v = normalize(first, dim=1, eps=EPS), normalize(second, dim=1, eps=EPS)
        if self.config.mixup == "linear":
            return weight * u + (1 - weight) * v
        return slerp(u, v, weight)

    def _pair(
        self, index: int, z: Mapping[str, Tensor], own: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        a, b = self.pairs[index]
        partner = self._partners(batch.label)
        second = z[b] if partner is None else z[b][partner]
        head, lam = self._mix_head(index), self.lam[index].clone()
        one_pass = self.config.passes == "one"
        with torch.set_grad_enabled(one_pass):
            probed = head(self._mix(z[a], second, lam))
        with torch.no_grad():
            k_a = divergence(own[a], probed)
            k_b = divergence(own[b] if partner is None else own[b][partner], probed)
            omega = strength(k_a, k_b)
            if self.config.omega == "inverse":
                omega = 1 - omega
            elif self.config.omega == "half":
                omega = torch.full_like(omega, 0.5)
        used = omega if self.config.passes == "two" else lam
        if self.config.passes == "one_raw":
            used = self.omega[index].clone()
        logits = probed if one_pass else head(self._mix(z[a], second, used))
        loss = cross_entropy(logits, batch.label)
        if self.config.pairing == "none" and partner is not None:
            other = cross_entropy(logits, batch.label[partner])
            loss = used * loss + (1 - used) * other
        self._keep(index, lam, omega)
        name = f"{a}-{b}"
        return loss, {
            f"loss/mix/{name}": loss,
            f"lambda/{name}": lam,
            f"omega/{name}": omega,
            f"kl/{name}/{a}": k_a,
            f"kl/{name}/{b}": k_b,
        }

    def _keep(self, index: int, lam: Tensor, omega: Tensor) -> None:
        """Remember the weight just used for probing, and the next one."""
        config = self.config
        alpha = {"on": config.alpha, "off": 0.0, "half": 1.0}[config.ema]
        following = alpha * lam + (1 - alpha) * omega
        if config.ema_init == "omega0" and config.ema == "on":
            following = torch.where(self.seen[index], following, omega)
        self.lam_used[index], self.omega[index], self.lam[index] = lam, omega, following
        self.seen[index] = True

    def _partners(self, label: Tensor) -> Tensor | None:
        """Draw j(i) for every i: of the same class, or any; None when samples stay paired."""
        if self.config.pairing == "paired":
            return None
        scores = torch.rand(
            len(label), len(label), generator=self.fit.generator("pairing"), device=label.device
        )
        if self.config.pairing == "same_class":
            scores = torch.where(label[:, None] == label[None, :], scores, -1.0)
        return scores.argmax(1)
