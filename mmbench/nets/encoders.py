"""Encoders: each maps [B, *shape] of one modality to [B, width]."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock

from mmbench.cell import encoder_parts
from mmbench.data.words import BUCKETS, PADDING
from mmbench.dataset import Modality
from mmbench.errors import UserError, nearest
from mmbench.nets.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels
from mmbench.nets.resnet import Residual
from mmbench.nets.weights import fill, state_of
from mmbench.registry import ENCODERS, register_encoder

BY_KIND = {"vector": "mlp", "image": "conv", "spectrogram": "conv", "frames": "resnet18",
           "text": "words", "video": "conv3d"}  # fmt: skip


@register_encoder("mlp")
class MLP(nn.Module):
    """Two hidden layers of 64 with ReLU, for vectors (datasets.md section 2.4)."""

    width = 64
    kinds = ("vector",)

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        (size,) = modality.shape
        self.net = nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, D] to [B, 64]."""
        out: Tensor = self.net(x)
        return out


@register_encoder("conv")
class SmallConv(nn.Module):
    """Three 3x3 convolutions of stride 2 (8, 16, 32 channels) and a layer of 64 with ReLU."""

    width = 64
    kinds = ("image", "spectrogram")

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        channels, height, width = modality.shape
        layers: list[nn.Module] = []
        for out in (8, 16, 32):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.ReLU()]
            channels, height, width = out, (height + 1) // 2, (width + 1) // 2
        layers += [nn.Flatten(), nn.Linear(channels * height * width, self.width), nn.ReLU()]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, 64]."""
        out: Tensor = self.net(x)
        return out


@register_encoder("resnet18")
class ResNet18(nn.Module):
    """ResNet-18 from scratch, without its classifier, for spectrograms, images and frames.

    The first convolution takes the modality's channels. Frames [C, K, H, W] are folded into the
    batch and averaged over K, which is the released code's adaptive 3-d pooling. Initialisation
    as the IPRM script's: Kaiming fan_out convolutions, BN weight ~ N(1, 0.02), BN bias 0.
    ``resnet18:imagenet`` starts from torchvision's ImageNet weights in the weights folder; the
    first convolution stays random unless there are 3 channels.
    """

    width = 512
    kinds = ("image", "spectrogram", "frames")
    variants = ("imagenet",)

    def __init__(self, modality: Modality, variant: str = "") -> None:
        super().__init__()
        self.net = Residual(BasicBlock, (2, 2, 2, 2))
        self.net.conv1 = nn.Conv2d(modality.shape[0], 64, 7, stride=2, padding=3, bias=False)
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)
        self.initialised = bool(variant)
        if variant:
            url = ResNet18_Weights.IMAGENET1K_V1.url
            file = url.rsplit("/", 1)[1]
            new = () if modality.shape[0] == 3 else ("conv1.",)
            fill(self.net, state_of(file, url), file, ("fc.", *new))
        self.pixels: nn.Module = nn.Identity()
        if variant and modality.shape[0] == 3:
            self.pixels = Pixels(modality, IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] or [B, C, K, H, W] to [B, 512]."""
        if x.dim() == 4:
            out: Tensor = self.net(self.pixels(x))
            return out
        frames = x.transpose(1, 2)
        folded: Tensor = self.net(self.pixels(frames.flatten(0, 1)))
        return folded.view(*frames.shape[:2], -1).mean(1)


@register_encoder("words")
class Words(nn.Module):
    """Mean of learned word embeddings and a layer of 64 with ReLU, for text without a download."""

    width = 64
    kinds = ("text",)

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BUCKETS, 64, padding_idx=PADDING)
        self.net = nn.Sequential(nn.Linear(64, self.width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map word numbers [B, L] to [B, 64]; a text without a word is the zero vector's."""
        present = (x != PADDING).sum(1, keepdim=True).clamp(min=1)
        # Word pieces may have larger numbers than hashed words, which this leaves as they are.
        folded = torch.where(x == PADDING, PADDING, 1 + (x - 1) % (BUCKETS - 1))
        out: Tensor = self.net(self.embedding(folded).sum(1) / present)
        return out


class Projected(nn.Module):
    """An encoder followed by a linear map to the common width (methods.md section 0.2)."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Linear(int(encoder.width), width)  # type: ignore[arg-type]  # Encoder
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *shape] to [B, width]."""
        out: Tensor = self.projection(self.encoder(x))
        return out


def encoder_names(modalities: tuple[Modality, ...], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the encoder of each modality: the chosen one, else the default of its kind.

    Raises:
        UserError: for an unknown modality or encoder, or one that does not take the kind.
    """
    known = {m.name for m in modalities}
    for name in chosen:
        if name not in known:
            raise UserError(f"no modality {name!r} to encode; there are {', '.join(sorted(known))}")
    return {m.name: _checked(m, chosen.get(m.name) or BY_KIND.get(m.kind, "")) for m in modalities}


def _checked(modality: Modality, chosen: str) -> str:
    """Return ``name``, ``name:variant`` or ``name:variant@model``; the usual variant is added."""
    if not chosen:
        raise UserError(
            f"modality {modality.name!r} is of the kind {modality.kind!r}, which has no encoder; "
            f"use {', '.join(BY_KIND)}"
        )
    name, rest = encoder_parts(chosen)
    variant, at, model = rest.partition("@")
    cls = ENCODERS.load(name)
    if modality.kind not in cls.kinds:
        raise UserError(
            f"encoder {name!r} takes {', '.join(cls.kinds)}; modality {modality.name!r} is a "
            f"{modality.kind}"
        )
    variants = getattr(cls, "variants", ())
    if variant and variant not in variants:
        raise UserError(
            f"encoder {name!r} has no variant {variant!r}{nearest(variant, variants)} "
            f"(there are {', '.join(variants) or 'none'})"
        )
    if at and not getattr(cls, "named", False):
        raise UserError(
            f"encoder {name!r} is one network; leave out what is behind @ in {chosen!r}"
        )
    if at and not model:
        raise UserError(f"there is no model behind @ in {chosen!r}; name one, or leave out the @")
    variant = variant or getattr(cls, "usual", "")
    return name + (f":{variant}" if variant else "") + (f"@{model}" if model else "")


def build_encoders(
    modalities: tuple[Modality, ...], names: Mapping[str, str]
) -> dict[str, nn.Module]:
    """Build one encoder per modality; widths that differ are projected to the largest."""
    built = {}
    for m in modalities:
        name, variant = encoder_parts(names[m.name])
        built[m.name] = ENCODERS.load(name)(m, *([variant] if variant else []))
    widths = {encoder.width for encoder in built.values()}
    if len(widths) == 1:
        return built
    return {name: Projected(encoder, max(widths)) for name, encoder in built.items()}


def initialise(module: nn.Module, scheme: str) -> None:
    """Re-initialise linear and convolutional layers: ``xavier`` or ``kaiming``; else keep.

    What was pretrained (``initialised``) is kept, whatever the scheme.
    """
    if scheme == "torch" or getattr(module, "initialised", False):
        return
    for child in module.children():
        initialise(child, scheme)
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
        if scheme == "xavier":
            nn.init.xavier_normal_(module.weight)
        else:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
