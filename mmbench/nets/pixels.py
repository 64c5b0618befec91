"""From the loader's pictures to those that a pretrained network was trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmbench.dataset import Modality

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Pixels(nn.Module):
    """Give pictures another mean and deviation per channel than the loader did, and another size.

    The identity if a dataset normalises as the network expects.

    Args:
        modality: of 3 channels; its ``mean`` and ``std`` are what the loader applied, if any.
        mean: per channel, as the network expects it.
        std: likewise.
        size: height and width that it takes; 0: any.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, modality: Modality, mean: Sequence[float], std: Sequence[float], size: int = 0
    ) -> None:
        super().__init__()
        self.size = size
        # In double: the scale of equal statistics must come out as one.
        own_mean = torch.tensor(modality.mean or (0.0,) * 3, dtype=torch.float64)
        own_std = torch.tensor(modality.std or (1.0,) * 3, dtype=torch.float64)
        wanted_mean, wanted_std = (torch.tensor(v, dtype=torch.float64) for v in (mean, std))
        scale, shift = own_std / wanted_std, (own_mean - wanted_mean) / wanted_std
        self.same = bool((scale == 1).all() and (shift == 0).all())
        # Not kept in checkpoints: they follow from the modality.
        self.register_buffer("scale", scale.float().view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, 3, H, W] to [B, 3, size, size]."""
        if not self.same:
            x = x * self.scale + self.shift
        if self.size and x.shape[-2:] != (self.size, self.size):
            x = functional.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True)
        return x
