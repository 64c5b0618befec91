"""BERT for text, ResNet-50 for pictures; pretrained weights come from a folder on this machine."""

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.models.resnet import Bottleneck

from mmbench.data.words import PADDING, WORDS
from mmbench.dataset import Modality
from mmbench.errors import UserError
from mmbench.nets.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels
from mmbench.nets.resnet import Residual
from mmbench.nets.weights import fill, from_pretrained, state_of
from mmbench.registry import register_encoder

IMAGENET = ResNet50_Weights.IMAGENET1K_V2.url  # what AMSS and BSS start from


@register_encoder("bert")
class Bert(nn.Module):
    """BERT's first output ([CLS]); its weights are those of the modality's tokenizer.

    The dataset must have been prepared with that tokenizer, e.g.
    ``--set tokenizer=bert-base-uncased``; the folder of that name below the weights folder holds
    tokenizer and model.
    """

    kinds = ("text",)
    pretrained = True  # always

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        if modality.vocabulary == WORDS:
            raise UserError(
                f"encoder 'bert' needs word pieces; {modality.name!r} holds hashed words. Prepare "
                "the dataset with --set tokenizer=bert-base-uncased and run it with the same"
            )
        self.net = from_pretrained("AutoModel", modality.vocabulary)
        if not hasattr(self.net.config, "hidden_size"):
            raise UserError(
                f"encoder 'bert' cannot read {modality.vocabulary!r}, a "
                f"{self.net.config.model_type}; prepare the dataset with --set "
                "tokenizer=bert-base-uncased, or choose another encoder"
            )
        self.width = int(self.net.config.hidden_size)
        self.initialised = True

    def forward(self, x: Tensor) -> Tensor:
        """Map word pieces [B, L], 0 where padded, to [B, width]."""
        out: Tensor = self.net(input_ids=x.long(), attention_mask=x != PADDING).last_hidden_state
        return out[:, 0]


@register_encoder("resnet50")
class ResNet50(nn.Module):
    """ResNet-50 without its classifier, [B, 3, H, W] to 2048; ``resnet50:imagenet`` is pretrained.

    From scratch by default. ``resnet50:imagenet`` reads torchvision's file of the second ImageNet
    weights from the weights folder.
    """

    width = 2048
    kinds = ("image",)
    variants = ("imagenet",)

    def __init__(self, modality: Modality, variant: str = "") -> None:
        super().__init__()
        self.net = Residual(Bottleneck, (3, 4, 6, 3))
        self.initialised = bool(variant)
        if modality.shape[0] != 3:
            raise UserError(
                f"encoder 'resnet50' takes 3 channels; {modality.name!r} has {modality.shape[0]}"
            )
        if variant:
            file = IMAGENET.rsplit("/", 1)[1]
            fill(self.net, state_of(file, IMAGENET), file, ("fc.",))
            self.pixels = Pixels(modality, IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, 3, H, W] to [B, 2048]."""
        out: Tensor = self.net(self.pixels(x) if self.initialised else x)
        return out
