"""Augmentation as batched tensor code on the device; each takes an explicit generator."""

import math
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


def crop(x: Tensor, draw: torch.Generator, least: float = 0.08) -> Tensor:
    """Cut a random box out of each sample of [B, ..., H, W] and enlarge it to the whole.

    Area is uniform in ``least`` to 1 and the aspect log-uniform in 3/4 to 4/3, torchvision's
    ``RandomResizedCrop``; a box that is too long is shortened instead of drawn again. All leading
    axes of a sample share its box.
    """
    batch, (height, width) = len(x), x.shape[-2:]
    area, aspect, along, down = torch.rand(4, batch, generator=draw, device=x.device)
    area = least + (1 - least) * area
    ratio = torch.exp((2 * aspect - 1) * math.log(4 / 3))
    wide, high = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    # In the coordinates of affine_grid the picture reaches from -1 to 1.
    left, top = (2 * along - 1) * (1 - wide), (2 * down - 1) * (1 - high)
    nought = torch.zeros_like(wide)
    rows = [torch.stack([wide, nought, left], 1), torch.stack([nought, high, top], 1)]
    flat = x.reshape(batch, -1, height, width)
    grid = functional.affine_grid(torch.stack(rows, 1).to(x.dtype), list(flat.shape), False)
    cut = functional.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return cut.view_as(x)


def window(x: Tensor, draw: torch.Generator, length: int = 64) -> Tensor:
    """Keep ``length`` pictures in a row of each sample of [B, C, T, H, W], from a random one on."""
    batch, channels, total, *size = x.shape
    length = min(length, total)
    start = torch.randint(0, total - length + 1, (batch,), generator=draw, device=x.device)
    index = start[:, None] + torch.arange(length, device=x.device)
    index = index.view(batch, 1, length, 1, 1).expand(batch, channels, length, *size)
    return x.gather(2, index)


def move(x: Tensor, draw: torch.Generator, reach: int = 16) -> Tensor:
    """Move each sample of [B, C, T, H, W] by up to ``reach``, all pictures alike."""
    return shift(x.flatten(1, 2), draw, reach).view_as(x)


AUGMENTATIONS: Mapping[str, Callable[..., Tensor]] = {
    "shift": shift,
    "flip": flip,
    "noise": noise,
    "crop": crop,
    "window": window,
    "move": move,
}
TOGETHER = "together"  # drawn alike for all modalities that say so
EACH = "each."  # for every picture of a clip by itself


def augment(name: str, x: Tensor, draw: torch.Generator) -> Tensor:
    """Apply the augmentation ``name``: one, or several joined by ``+``, applied in that order.

    A number may follow a colon: ``shift:2+noise:0.5`` (reach 2, sigma 0.5). ``each.`` before a name
    treats every picture of [B, C, T, H, W] by itself. A first part ``together`` is the loader's.

    Raises:
        UserError: if there is none of that name, or what follows the colon is not a number.
    """
    for part in name.removeprefix(f"{TOGETHER}+").split("+"):
        kind, colon, text = part.removeprefix(EACH).partition(":")
        if kind not in AUGMENTATIONS:
            raise UserError(f"unknown augmentation {kind!r}{nearest(kind, AUGMENTATIONS)}")
        try:
            number = [int(text) if text.isdigit() else float(text)] if colon else []
        except ValueError as err:
            raise UserError(f"augmentation {part!r}: {text!r} is not a number") from err
        if part.startswith(EACH):
            pictures = x.transpose(1, 2).flatten(0, 1)
            changed = AUGMENTATIONS[kind](pictures, draw, *number)
            x = changed.view(len(x), x.shape[2], x.shape[1], *x.shape[3:]).transpose(1, 2)
        else:
            x = AUGMENTATIONS[kind](x, draw, *number)
    return x
