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

with the norms per parameter tensor; ``norm_scope: encoder`` restores the magnitude of the gradient
as a whole, as the paper may mean it. Heads follow the plain gradient of L_mm + sum_m L_m.
Differences from the released code, with reasons in ``deviations``: two backward passes and not
M + 2, as L_m reaches no other encoder; a gradient of zero is no conflict; the common schedule.
Defaults: gamma 1.5 from the authors' script (CREMA-D).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.method import Batch, Deviation, MethodConfig, Needs, log_entries, of_trainer, setting
from mmbench.registry import register_method

from .arithmetic import EPS
from .gradients import Gradients, give_gradients, reached, take_gradients
from .joint import Joint


class MMParetoConfig(MethodConfig):
    """Options of MMPareto."""

    gamma: float = setting(
        1.5, "how much encoder gradients are enlarged", source="authors' script, CREMA-D", gt=0
    )
    norm_scope: Literal["tensor", "encoder"] = setting(
        "tensor", "restore the magnitude per tensor, or of the encoder", source="authors' script"
    )


def min_norm(v11: Tensor, v12: Tensor, v22: Tensor) -> Tensor:
    """Return the a in [0, 1] that minimises |a G + (1 - a) U|^2, from <G, G>, <G, U> and <U, U>.

    Where the minimum lies at an end of the segment, the authors' solver answers 0.999 or 0.001.
    """
    inside = (v22 - v12) / (v11 + v22 - 2 * v12).clamp_min(torch.finfo(v11.dtype).tiny)
    ends = torch.where(v12 >= v22, torch.full_like(inside, 0.001), inside)
    return torch.where(v12 >= v11, torch.full_like(inside, 0.999), ends)


@torch.no_grad()
def balance(own: Gradients, other: Gradients) -> tuple[Tensor, Tensor]:
    """Return cos(G, U), 0 where one vanishes, and a, 1/2 unless they conflict.

    G is ``own`` and U is ``other``, as one tensor per parameter.
    """
    pairs = [(g.flatten(), u.flatten()) for g, u in zip(own, other, strict=True)]
    v11, v12, v22 = torch.stack(
        [torch.stack([g.dot(g), g.dot(u), u.dot(u)]) for g, u in pairs]
    ).sum(0)
    tiny = torch.finfo(v12.dtype).tiny
    vanishes = (v11 < tiny) | (v22 < tiny)
    norms = (v11.sqrt() * v22.sqrt()).clamp_min(tiny)
    cosine = torch.where(vanishes, torch.zeros_like(v12), v12 / norms)
    return cosine, torch.where((cosine > 0) | vanishes, 0.5, min_norm(v11, v12, v22))


@torch.no_grad()
def combine(own: Gradients, other: Gradients, weight: Tensor, gamma: float, scope: str) -> None:
    """Make G (``own``) gamma h max(|G + U| / |h|, 1), h = 2 a G + 2 (1 - a) U, with a ``weight``.

    The norms are per tensor, or over all of them (``scope=encoder``). In place, and U is used up:
    further copies of all weights would cost more than the arithmetic.
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
    authors = of_trainer(lr=0.002, epochs=50, batch_size=64, schedule="constant") | {"gamma": 1.5}
    deviations = (
        Deviation(
            None,
            "two backward passes: of the fused loss, and of the sum of the unimodal ones",
            "one for every loss, and one more for their sum (M + 2)",
            "A unimodal loss reaches no other encoder: the gradients are the same.",
        ),
        Deviation(
            None,
            "each gradient enters the solver once",
            "each enters twice, tensor by tensor and concatenated",
            "All inner products double, so that the weights are the same.",
        ),
        Deviation(
            None,
            "a vanishing G or U is no conflict, and a vanishing h is left as it is",
            "the solver gets the zeros, and the magnitude is divided by |h| = 0",
            "The update is the same unless h = 0, where the released one can be NaN.",
        ),
        Deviation(
            None,
            "the common schedule of the learning rate",
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
        multimodal = {m: take_gradients(encoder) for m, encoder in self.encoders.items()}
        self.fit.backward(unimodal)
        log = log_entries(loss={"fused": fused, **own})
        for m, encoder in self.encoders.items():
            parameters, g, u = reached(encoder, multimodal[m])
            if parameters:  # none of a frozen encoder
                cosine, weight = balance(g, u)
                combine(g, u, weight, self.config.gamma, self.config.norm_scope)
                give_gradients(parameters, g)
                log |= {f"cos/{m}": cosine, f"weight/{m}": weight}
        self.fit.update()
        return {"loss": (fused + unimodal).detach(), **log}
