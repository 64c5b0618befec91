"""CLIP for pictures and texts: frozen features under a trainable adapter, or fine-tuned."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mmbench.data.features import Frozen
from mmbench.data.words import WORDS
from mmbench.dataset import Modality
from mmbench.errors import UserError
from mmbench.nets.pixels import Pixels
from mmbench.nets.weights import config_of, fingerprint, from_pretrained
from mmbench.registry import register_encoder

MODEL = "openai/clip-vit-base-patch32"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VERSION = 1  # raise it when the same weights and inputs give other features


@register_encoder("clip")
class Clip(nn.Module):
    """CLIP's features of a picture or text, 512 wide for ViT-B/32: ``clip:adapter`` by default.

    ``clip:adapter``: the features are computed once per sample, without augmentation, and kept
    beside the prepared data; Linear - ReLU - Linear on the normalised features is trained.
    ``clip:features``: nothing is trained but the method's heads, as in the MLA repository. Both
    take ``-raw`` for features as CLIP gives them, not divided by their length. ``clip:finetune``
    trains CLIP itself on augmented pictures; it needs a rate of about 1e-5.

    Pictures are read by ``openai/clip-vit-base-patch32`` or the model behind ``@``, e.g.
    ``clip:adapter@openai/clip-vit-large-patch14``: its folder below the weights folder. A text is
    read by the model whose tokenizer the dataset was prepared with (``--set tokenizer=NAME``).
    Frames are averaged.
    """

    kinds = ("image", "frames", "text")
    variants = ("adapter", "adapter-raw", "features", "features-raw", "finetune")
    usual = "adapter"
    named = True

    def __init__(self, modality: Modality, variant: str = "adapter") -> None:
        super().__init__()
        how = variant.partition("@")[0]
        self.normalise = how in ("adapter", "features")
        self.initialised = how == "finetune"
        if how == "finetune":
            self.net: nn.Module = Tower(modality, _model(modality, variant))
            self.width = int(self.net.width)
            return
        (self.width,) = modality.shape  # of what ``frozen`` says took the place of the sample
        self.net = nn.Identity()
        if how.startswith("adapter"):
            self.net = nn.Sequential(
                nn.Linear(self.width, self.width), nn.ReLU(), nn.Linear(self.width, self.width)
            )

    @classmethod
    def frozen(cls, modality: Modality, variant: str) -> Frozen | None:
        """Return what computes this modality's features once, unless CLIP itself is trained."""
        if variant.partition("@")[0] == "finetune":
            return None
        model = _model(modality, variant)
        identity = ["clip", VERSION, modality.kind, model, fingerprint(model), MEAN, STD]
        return Frozen(identity, lambda: Tower(modality, model))

    def forward(self, x: Tensor) -> Tensor:
        """Map features [B, width], or the samples themselves to be fine-tuned, to [B, width]."""
        if self.normalise:
            x = functional.normalize(x, dim=1)
        out: Tensor = self.net(x)
        return out


class Tower(nn.Module):
    """One of CLIP's two networks with its projection to the common space.

    Raises:
        UserError: if the model is not there or not a CLIP, the text is not of its tokenizer, or
            the pictures are not in colour.
    """

    def __init__(self, modality: Modality, model: str) -> None:
        super().__init__()
        self.kind = modality.kind
        config = config_of(model)
        if config.model_type != "clip":
            raise UserError(
                f"{model!r} is a {config.model_type}, not a CLIP, which {modality.name!r} is to be "
                "read by; "
                + (
                    f"prepare the dataset with --set tokenizer={MODEL} and run it with the same"
                    if self.kind == "text"
                    else "name another one behind @"
                )
            )
        self.width = int(config.projection_dim)
        if self.kind == "text":
            longest = config.text_config.max_position_embeddings
            if modality.shape[0] > longest:
                raise UserError(
                    f"{model!r} reads {longest} word pieces and {modality.name!r} has "
                    f"{modality.shape[0]}; prepare the dataset with fewer, e.g. --set "
                    f"length={longest}"
                )
            self.net: Any = from_pretrained("CLIPTextModelWithProjection", model)
            return
        if modality.shape[0] != 3:
            raise UserError(
                f"encoder 'clip' takes 3 channels; {modality.name!r} has {modality.shape[0]}"
            )
        self.pixels = Pixels(modality, MEAN, STD, config.vision_config.image_size)
        self.net = from_pretrained("CLIPVisionModelWithProjection", model)

    def forward(self, x: Tensor) -> Tensor:
        """Map word pieces [B, L], pictures [B, 3, H, W] or [B, 3, K, H, W] to [B, width]."""
        if self.kind == "text":  # what comes behind the end mark is never looked at
            said: Tensor = self.net(input_ids=x.long()).text_embeds
            return said
        frames = x.transpose(1, 2) if x.dim() == 5 else x[:, None]
        seen: Tensor = self.net(pixel_values=self.pixels(frames.flatten(0, 1))).image_embeds
        return seen.view(*frames.shape[:2], -1).mean(1)


def _model(modality: Modality, variant: str) -> str:
    """Return the name of the CLIP that reads the modality."""
    named = variant.partition("@")[2]
    if modality.kind != "text":
        return named or MODEL
    if modality.vocabulary == WORDS:
        raise UserError(
            f"encoder 'clip' needs word pieces; {modality.name!r} holds hashed words. Prepare the "
            f"dataset with --set tokenizer={named or MODEL} and run it with the same"
        )
    if named and named != modality.vocabulary:
        raise UserError(
            f"{modality.name!r} holds the word pieces of {modality.vocabulary!r}, which {named!r} "
            f"may number differently; prepare the dataset with --set tokenizer={named}"
        )
    return modality.vocabulary
