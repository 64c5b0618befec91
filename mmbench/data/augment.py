"""Augmentation as batched tensor code on the device; each takes an explicit generator."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mmbench.errors import UserError, nearest


def shift(x: Tensor, draw: torch.Generator, reach: int = 1) -> Tensor:
    """Move every sample of [B, C, H, W] by up to ``reach`` cells, repeating the border."""
    batch, _, height, width = x.shape
    padded = functional.pad(x, [reach] * 4, mode="replicate")
    top, left = torch.randint(0, 2 * reach + 1, (2, batch), generator=draw, device=x.device)
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    sample = torch.arange(batch, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def flip(x: Tensor, draw: torch.Generator) -> Tensor:
    """Mirror each sample of [B, ..., W] left to right with probability one half."""
    chosen = torch.rand(len(x), generator=draw, device=x.device) < 0.5
    return torch.where(chosen.view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)


def noise(x: Tensor, draw: torch.Generator, sigma: float = 1.0) -> Tensor:
    """Add Gaussian noise of standard deviation ``sigma``, fresh for every batch."""
    return x + sigma * torch.randn(x.shape, generator=draw, device=x.device, dtype=x.dtype)


AUGMENTATIONS: Mapping[str, Callable[..., Tensor]] = {
    "shift": shift,
    "flip": flip,
    "noise": noise,
}


def augment(name: str, x: Tensor, draw: torch.Generator) -> Tensor:
    """Apply the augmentation ``name``: one, or several joined by ``+``, applied in that order.

    A number may follow a colon: ``shift:2+noise:0.5`` (reach 2, sigma 0.5).

    Raises:
        UserError: if there is none of that name, or what follows the colon is not a number.
    """
    for part in name.split("+"):
        kind, colon, text = part.partition(":")
        if kind not in AUGMENTATIONS:
            raise UserError(f"unknown augmentation {kind!r}{nearest(kind, AUGMENTATIONS)}")
        try:
            number = [int(text) if text.isdigit() else float(text)] if colon else []
        except ValueError as err:
            raise UserError(f"augmentation {part!r}: {text!r} is not a number") from err
        x = AUGMENTATIONS[kind](x, draw, *number)
    return x
