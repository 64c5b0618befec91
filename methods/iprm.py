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

import random
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from mmbench.method import Batch, Deviation, Method, MethodConfig, Needs, of_trainer, setting
from mmbench.nets.heads import own_heads
from mmbench.nets.sphere import EPS, Arc, unit
from mmbench.registry import register_method
from mmbench.training.seeding import generator

SCRIPT, TALK = "IPRM script", "IPRM talk; methods.md section 11.1"
BATCH = {"nvgesture": 2}  # launch lines, where not 64


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
    probe: Literal["as_mixed", "paired"] = setting(
        "as_mixed", "what is probed when samples are not paired", source=TALK
    )
    pair_draw: Literal["generator", "python"] = setting(
        "generator", "how single_cls draws a pair", source="mmbench: needs no checkpoint"
    )
    third_head: Literal["own", "second"] = setting(
        "own", "head of the third of three modalities", source="methods.md section 11"
    )


def divergence(logits: Tensor, mixed: Tensor) -> Tensor:
    """Return K = mean_i KL(softmax(logits_i) || softmax(mixed_i)) in nats, a scalar."""
    theirs, mine = mixed.log_softmax(1), logits.log_softmax(1)
    # rounding can make the divergence of equal predictions negative, and a ratio of two arbitrary
    return kl_div(theirs, mine, log_target=True, reduction="batchmean").clamp_min(0)


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
    authors = of_trainer(lr=0.01, epochs=100, batch_size=64, schedule="step", lr_step=0.7) | {
        "alpha": 0.8
    }
    deviations = (
        Deviation(
            "third_head",
            "own",
            "second",
            "Released: the third modality goes through the second's head, so that head 3 is never "
            "trained and head 2 serves two modalities.",
        ),
        Deviation(
            "pair_draw",
            "generator",
            "python",
            "Released: random.sample of Python's generator. A draw that depends on the seed and "
            "the step alone continues after an interruption by itself.",
        ),
        Deviation(
            None,
            "slerp by the half-angle, linear where the features are parallel or opposite",
            "sin theta + 1e-8 in the denominator; parallel features mix to the zero vector",
            "The two agree to 1e-6 elsewhere; the released gradient is NaN at theta = 0.",
        ),
        Deviation(
            None,
            "norms and omega are guarded by 1e-12",
            "division by the bare norm, and by K_a + K_v",
            "One feature row of zeros, or equal predictions, make every parameter NaN there.",
        ),
        Deviation(
            None,
            "style=single_cls: the lambda of a pair that was never drawn is 1/2",
            "evaluation ends in an index error until every pair was drawn",
            "A short run must have a prediction.",
        ),
    )
    compiles = ("_losses",)
    lam: Tensor
    lam_used: Tensor
    omega: Tensor
    seen: Tensor

    @classmethod
    def recipe(cls, given: Mapping[str, object], dataset: str = "") -> dict[str, object]:
        """Return the recipe with the batch size of the dataset's launch line, where it differs."""
        own = {"trainer.batch_size": BATCH[dataset]} if dataset in BATCH else {}
        return {**super().recipe(given, dataset), **own}

    def build(self) -> None:
        """Create own heads, mix heads, and the state per pair."""
        self.heads = own_heads(self.names, self.width, self.classes)
        self.pairs = tuple(combinations(self.names, 2))
        keys = ["all"] if self.config.style == "single_cls" else ["__".join(p) for p in self.pairs]
        self.mix_heads = nn.ModuleDict({k: nn.Linear(self.width, self.classes) for k in keys})
        for name in ("lam", "lam_used", "omega"):
            self.register_buffer(name, torch.full((len(self.pairs),), 0.5))
        self.register_buffer("seen", torch.zeros(len(self.pairs), dtype=torch.bool))
        self.random = random.Random(0)

    def on_fit_start(self) -> None:
        """Seed the private generator of ``pair_draw=python``."""
        self.random.seed(self.fit.seed)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the private generator's state as plain numbers, where it is used."""
        if self.config.pair_draw != "python":
            return {}
        version, words, gauss = self.random.getstate()
        return {"random": [version, list(words), gauss]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_extra_state`` returned."""
        if "random" in state:
            version, words, gauss = state["random"]
            self.random.setstate((version, tuple(words), gauss))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Probe, weigh, learn, keep; one encoder pass."""
        z = self.encode(batch.inputs)
        partners = {index: self._partners(batch.label) for index in self._drawn()}
        total, log = self._losses(z, batch.label, partners)
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
            self._mix_head(i)(self._mixer(z[a], z[b])[0](weights[i]))
            for i, (a, b) in enumerate(self.pairs)
        ]
        fused = torch.stack(list(own.values())).sum(0) + torch.stack(mixed).mean(0)
        return {"fused": fused, **own}

    def _losses(
        self, z: Mapping[str, Tensor], label: Tensor, partners: Mapping[int, Tensor | None]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and what to log.

        Args:
            z: features of each modality, [B, d].
            label: [B].
            partners: of the pairs to mix: whose second features, [B]; None: their own.
        """
        own = self._own(z)
        losses = {m: cross_entropy(o, label) for m, o in own.items()}
        log = {f"loss/{m}": loss for m, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum()
        for index, partner in partners.items():
            mix_loss, pair_log = self._pair(index, z, own, label, partner)
            total = total + mix_loss
            log.update(pair_log)
        return total, log

    def _own(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = {m: m for m in self.names}
        if self.config.third_head == "second" and len(self.names) == 3:
            heads[self.names[2]] = self.names[1]
        return {m: self.heads[heads[m]](z[m]) for m in self.names}

    def _drawn(self) -> list[int]:
        if self.config.style == "tri_cls":
            return list(range(len(self.pairs)))
        if self.config.pair_draw == "python":
            first, second = sorted(self.random.sample(range(len(self.names)), 2))
            return [self.pairs.index((self.names[first], self.names[second]))]
        # on the CPU, so that drawing a pair does not wait for the device
        draw = generator(torch.device("cpu"), self.fit.seed, "pair", self.fit.step)
        return [int(torch.randint(len(self.pairs), (), generator=draw))]

    def _mix_head(self, index: int) -> nn.Module:
        key = "all" if self.config.style == "single_cls" else "__".join(self.pairs[index])
        return self.mix_heads[key]

    def _mixer(self, first: Tensor, second: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return weight -> mixture [B, d], and the share of rows whose mixture is degenerate."""
        if self.config.mixup == "linear":
            raw = self.config.linear_on == "raw"
            u, v = (first, second) if raw else (unit(first), unit(second))
            return (lambda weight: weight * u + (1 - weight) * v), u.new_zeros(())
        arc = Arc(unit(first), unit(second))
        return arc.at, arc.opposite()

    def _pair(
        self,
        index: int,
        z: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        label: Tensor,
        partner: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one pair's mixture, and what to log; moves the pair's lambda on."""
        a, b = self.pairs[index]
        second, own_b = (z[b], own[b]) if partner is None else (z[b][partner], own[b][partner])
        mix, opposite = self._mixer(z[a], second)
        head, lam = self._mix_head(index), self.lam[index].clone()
        one_pass = self.config.passes == "one"
        with torch.set_grad_enabled(one_pass):
            probed = head(mix(lam))
        with torch.no_grad():
            seen = probed
            if partner is not None and self.config.probe == "paired":
                seen, own_b = head(self._mixer(z[a], z[b])[0](lam)), own[b]
            k_a, k_b = divergence(own[a], seen), divergence(own_b, seen)
            omega = self._omega(k_a, k_b)
        used = {"two": omega, "one": lam, "one_raw": self.omega[index].clone()}[self.config.passes]
        logits = probed if one_pass else head(mix(used))
        loss = cross_entropy(logits, label)
        if self.config.pairing == "none" and partner is not None:
            loss = used * loss + (1 - used) * cross_entropy(logits, label[partner])
        self._keep(index, lam, omega)
        name = f"{a}-{b}"
        return loss, {
            f"loss/mix/{name}": loss,
            f"lambda/{name}": lam,
            f"omega/{name}": omega,
            f"kl/{name}/{a}": k_a,
            f"kl/{name}/{b}": k_b,
            f"opposite/{name}": opposite,
        }

    def _omega(self, k_a: Tensor, k_b: Tensor) -> Tensor:
        """Return the weight of the pair's first modality under the chosen rule."""
        if self.config.omega == "half":
            return torch.full_like(k_a, 0.5)
        return strength(k_a, k_b) if self.config.omega == "closer" else strength(k_b, k_a)

    def _keep(self, index: int, lam: Tensor, omega: Tensor) -> None:
        """Remember the weight just used for probing, and the next one."""
        config = self.config
        alpha = {"on": config.alpha, "off": 0.0, "half": 1.0}[config.ema]
        following = alpha * lam + (1 - alpha) * omega
        if config.ema_init == "omega0" and config.ema == "on":
            following = torch.where(self.seen[index], following, omega)
        self.lam_used[index], self.omega[index], self.lam[index] = lam, omega, following
        self.seen[index].fill_(True)  # a copy of True would wait for the device

    def _partners(self, label: Tensor) -> Tensor | None:
        """Draw j(i) for every i: of the same class, or any; None when samples stay paired."""
        if self.config.pairing == "paired":
            return None
        scores = torch.rand(
            len(label), len(label), generator=self.fit.generator("pairing"), device=label.device
        )
        if self.config.pairing == "same_class":
            scores = torch.where(label[:, None] == label[None, :], scores, -1.0)
            # oneself only if nobody else has the class
            scores = scores.diagonal_scatter(torch.full_like(scores[0], -0.5))
        return scores.argmax(1)
