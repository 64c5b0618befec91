"""OGM-GE: OGM, plus Gaussian noise of the gradient's own scale on both encoders.

Damping shrinks the noise of stochastic gradients, which is thought to help generalisation; GE puts
it back. The reference, the coefficients and the deviations are those of ``ogm``; the update is

    g <- k_m g + N(0, sigma^2) elementwise,    sigma = std(g) + 1e-8

with the unbiased std of the unscaled g, one sigma per tensor, for every modality (also where
k_m = 1) inside the window.

Deviations from the released code: those of ``ogm``, and a tensor of one element, which has no
unbiased std, gets NaN there and no noise here. Defaults: those of ``ogm``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmbench.method import Deviation
from mmbench.registry import register_method

from .gradients import in_scope
from .ogm import OGM

FLOOR = 1e-8  # added to sigma, as the authors' script does


def enhance(gradient: Tensor, k: Tensor, draw: torch.Generator) -> None:
    """Make g k g + sigma n, n standard normal, sigma = std(g) + 1e-8; k g if g has one element.

    In place: further copies of all weights would cost more than the arithmetic.
    """
    if gradient.numel() < 2:
        gradient.mul_(k)
        return
    noise = torch.randn(
        gradient.shape, generator=draw, dtype=gradient.dtype, device=gradient.device
    )
    noise.mul_(gradient.std() + FLOOR)
    gradient.mul_(k).add_(noise)


@register_method("ogm-ge")
class OGMGE(OGM):
    """OGM, plus Gaussian noise of the gradient's own scale."""

    deviations = (
        *OGM.deviations,
        Deviation(
            None,
            "a tensor of one element gets no noise",
            "its noise is NaN",
            "The unbiased std of one number does not exist.",
        ),
    )

    def modulate(self, k: Mapping[str, Tensor]) -> None:
        """Damp, and add the noise, to the gradients of encoder m in scope."""
        draw = self.fit.generator("ge-noise")
        for m, encoder in self.encoders.items():
            for p in in_scope(encoder, self.config.scope):
                if p.grad is not None:
                    enhance(p.grad, k[m], draw)
