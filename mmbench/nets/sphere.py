"""Mixing features along great circles, with a defined value and gradient everywhere."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

EPS = 1e-12
FLAT = 1e-4  # below this sin(theta), interpolation on the sphere and on the line agree to 1e-9


def unit(z: Tensor) -> Tensor:
    """Return the rows of z [B, d] divided by their norms; zero rows stay zero.

    Args:
        z: features; half precision is raised to float32, where angles can be told apart.

    Returns:
        [B, d]. The gradient at a zero row is the identity, instead of 1/0 or 1/eps.
    """
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    square = z.square().sum(1, keepdim=True)
    zero = square < EPS * EPS
    norm = torch.where(zero, torch.ones_like(square), square).sqrt()
    return z / norm


class Arc:
    """The shorter great circle between rows u and v; made once, it is mixed at any weight.

    The angle is theta = 2 atan2(|u - v|, |u + v|), whose gradient is finite where that of
    arccos is not.

    Args:
        u: unit or zero rows [B, d].
        v: likewise.
    """

    def __init__(self, u: Tensor, v: Tensor) -> None:
        self.u, self.v = u, v
        gap = ((u - v).square().sum(1, keepdim=True) + EPS).sqrt()
        total = ((u + v).square().sum(1, keepdim=True) + EPS).sqrt()
        theta = 2 * torch.atan2(gap, total)
        self.flat = theta.sin().abs() < FLAT
        self.parallel = gap < total
        # the replaced angles keep NaN out of the gradient of the branch that is not taken
        self.theta = torch.where(self.flat, torch.ones_like(theta), theta)

    def at(self, weight: Tensor) -> Tensor:
        """Return [sin(w theta) u + sin((1 - w) theta) v] / sin(theta), [B, d].

        Args:
            weight: w in [0, 1], a scalar: the weight of u.

        Returns:
            The mixed rows. Where theta is near 0: normalised linear interpolation. Where it is
            near pi, so that no shortest way exists: plain linear interpolation.
        """
        theta, rest = self.theta, 1 - weight
        curved = ((weight * theta).sin() * self.u + (rest * theta).sin() * self.v) / theta.sin()
        line = weight * self.u + rest * self.v
        straight = torch.where(self.parallel, normalize(line, dim=1, eps=EPS), line)
        return torch.where(self.flat, straight, curved)

    def opposite(self) -> Tensor:
        """Return the share of rows with no shortest way, a scalar."""
        return (self.flat & ~self.parallel).to(self.u.dtype).mean()
