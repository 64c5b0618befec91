"""MMPareto: add unimodal losses, and let each encoder follow a direction that hurts neither.

Every encoder has two objectives, the multimodal loss and its own unimodal loss. Where their
gradients agree they are added; where they conflict, the min-norm point of their segment descends
both. Its magnitude, which shrinks in a conflict, is restored and then enlarged, because a larger
step noise is thought to generalise better.

Reference: Wei, Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance",
ICML 2024 (arXiv 2405.17730).

For encoder m, with G = grad L_mm and U = grad L_m over all its parameters:

    cos(G, U) > 0:  a = b = 1/2
    otherwise:      a = argmin_{0 <= a <= 1} |a G + (1 - a) U|^2,  b = 1 - a
    h    = 2 a G + 2 b U
    grad = gamma h max(|G + U| / |h|, 1)

with the norms per parameter tensor. Heads follow the plain gradient of L_mm + sum_m L_m.

Differences from the released code: two backward passes instead of M + 2, because L_m reaches no
other encoder (the gradients are the same); where G, U or h vanishes the ratio is 1, which leaves
the update unchanged. ``norm_scope: encoder`` restores the magnitude of the gradient as a whole,
as the paper may mean it. The authors' script builds a StepLR that it never steps; the preset
``authors`` therefore has a constant learning rate.

Defaults: gamma 1.5 from the authors' script (CREMA-D).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.method import Batch, Deviation, MethodConfig, Needs, setting
from mmbench.registry import register_method

from .joint import Joint
from .modulated import EPS, prefixed


class MMParetoConfig(MethodConfig):
    """Options of MMPareto."""

    gamma: float = setting(
        1.5, "how much encoder gradients are enlarged", source="authors' script, CREMA-D", gt=0
    )
    norm_scope: Literal["tensor", "encoder"] = setting(
        "tensor", "restore the magnitude per tensor, or of the encoder", source="authors' script"
    )


class Balance(NamedTuple):
    """cos(G, U), and the weight a of G; scalars. The weight of U is 1 - a."""

    cosine: Tensor
    weight: Tensor


def min_norm(v11: Tensor, v12: Tensor, v22: Tensor) -> Tensor:
    """Return the a in [0, 1] that minimises |a G + (1 - a) U|^2.

    Where the minimum lies at an end of the segment, the authors' solver answers 0.999 or 0.001.

    Args:
        v11: <G, G>.
        v12: <G, U>.
        v22: <U, U>.
    """
    inside = (v22 - v12) / (v11 + v22 - 2 * v12).clamp_min(torch.finfo(v11.dtype).tiny)
    ends = torch.where(v12 >= v22, torch.full_like(inside, 0.001), inside)
    return torch.where(v12 >= v11, torch.full_like(inside, 0.999), ends)


def balance(own: Sequence[Tensor], other: Sequence[Tensor]) -> Balance:
    """Weigh the multimodal gradient against the unimodal one.

    Args:
        own: G as one tensor per parameter.
        other: U, of the same shapes.

    Returns:
        The cosine (0 where a gradient vanishes) and a: 1/2 unless the two conflict.
    """
    pairs = [(g.flatten(), u.flatten()) for g, u in zip(own, other, strict=True)]
    each = [torch.stack([g @ g, g @ u, u @ u]) for g, u in pairs]
    v11, v12, v22 = torch.stack(each).sum(0)
    tiny = torch.finfo(v12.dtype).tiny
    vanishes = (v11 < tiny) | (v22 < tiny)
    norms = (v11.sqrt() * v22.sqrt()).clamp_min(tiny)
    cosine = torch.where(vanishes, torch.zeros_like(v12), v12 / norms)
    agrees = (cosine > 0) | vanishes
    return Balance(cosine, torch.where(agrees, torch.full_like(v12, 0.5), min_norm(v11, v12, v22)))


def combine(
    own: list[Tensor], other: list[Tensor], weight: Tensor, gamma: float, scope: str
) -> None:
    """Make G gamma h max(|G + U| / |h|, 1), h = 2 a G + 2 (1 - a) U, per parameter.

    In place, and U is used up: further copies of all weights would cost more than the arithmetic.

    Args:
        own: G as one tensor per parameter.
        other: U, of the same shapes.
        weight: a, a scalar.
        gamma: enlargement.
        scope: ``tensor`` takes the norms per tensor, ``encoder`` over all of them.
    """
    wanted = torch.stack(torch._foreach_norm(torch._foreach_add(own, other)))
    torch._foreach_mul_(own, 2 * weight)
    torch._foreach_mul_(other, 2 * (1 - weight))
    torch._foreach_add_(own, other)  # now h
    size = torch.stack(torch._foreach_norm(own))
    if scope == "encoder":
        size, wanted = size.norm().expand_as(size), wanted.norm().expand_as(wanted)
    ratio = torch.where(size < EPS, torch.ones_like(size), wanted / size.clamp_min(EPS))
    torch._foreach_mul_(own, (gamma * ratio.clamp_min(1)).unbind())


@register_method("mmpareto")
class MMPareto(Joint):
    """Combine the multimodal and the unimodal gradient of each encoder without conflict."""

    Config = MMParetoConfig
    config: MMParetoConfig
    needs = Needs(min_modalities=2)
    reference = "Wei and Hu, ICML 2024"
    authors = {
        "trainer.lr": 0.002,
        "trainer.epochs": 50,
        "trainer.batch_size": 64,
        "trainer.schedule": "constant",
        "gamma": 1.5,
    }
    deviations = (
        Deviation(
            None,
            "two backward passes",
            "one for every loss, and one for their sum",
            "A unimodal loss reaches no other encoder: the gradients are the same.",
        ),
        Deviation(
            None,
            "each gradient enters the solver once",
            "twice, per tensor and concatenated",
            "All inner products double, so that the weights are the same.",
        ),
        Deviation(
            None,
            "the common schedule",
            "a step schedule is built and never stepped: the rate is constant",
            "A recipe and not the method: --preset authors has schedule=constant.",
        ),
    )

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Two backward passes, then a Pareto direction for each encoder."""
        z = self.encode(batch.inputs)
        fused = cross_entropy(self.fusion_head(z), batch.label)
        own = {m: cross_entropy(self.heads[m](z[m]), batch.label) for m in self.names}
        unimodal = torch.stack(list(own.values())).sum()
        self.fit.backward(fused, retain_graph=True)
        multimodal = self._take_encoder_gradients()
        self.fit.backward(unimodal)
        found = self._combine(multimodal)
        self.fit.update()
        return {
            "loss": (fused + unimodal).detach(),
            "loss/fused": fused,
            **prefixed("loss", own),
            **prefixed("cos", {m: b.cosine for m, b in found.items()}),
            **prefixed("weight", {m: b.weight for m, b in found.items()}),
        }

    def _take_encoder_gradients(self) -> dict[str, list[Tensor | None]]:
        """Return the gradients that the encoders have, and leave them without any."""
        taken = {m: [p.grad for p in e.parameters()] for m, e in self.encoders.items()}
        self.encoders.zero_grad(set_to_none=True)
        return taken

    @torch.no_grad()
    def _combine(self, multimodal: Mapping[str, Sequence[Tensor | None]]) -> dict[str, Balance]:
        """Replace each encoder's gradients; a gradient that one loss lacks counts as zero."""
        found = {}
        for m, encoder in self.encoders.items():
            triples = [
                (p, torch.zeros_like(p) if g is None else g,
                 torch.zeros_like(p) if p.grad is None else p.grad)
                for p, g in zip(encoder.parameters(), multimodal[m], strict=True)
                if g is not None or p.grad is not None
            ]  # fmt: skip
            if not triples:
                continue
            own, other = [g for _, g, _ in triples], [u for _, _, u in triples]
            found[m] = balance(own, other)
            combine(own, other, found[m].weight, self.config.gamma, self.config.norm_scope)
            for p, gradient, _ in triples:
                p.grad = gradient
        return found
