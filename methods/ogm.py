"""OGM: slow the encoder of the modality that leads, so that the others can learn.

The modality whose part of the fused logits is more certain of the true class is ahead; while
training is in its window, the gradients of its encoder are damped by how far it is ahead.

Reference: Peng, Wei, Deng, Wang, Hu, "Balanced Multimodal Learning via On-the-fly Gradient
Modulation", CVPR 2022.

With o_m the part of modality m in the fused logits (bias b / M each) and L = CE(sum_m o_m, y):

    s_m   = sum_i softmax(o_m)_{i, y_i}
    rho_m = s_m / mean_{j != m} s_j
    k_m   = 1 - tanh(alpha relu(rho_m)) if rho_m > 1 else 1
    g     <- k_m g     for the gradients g of encoder m in scope, in the window

Deviations from the released code, each an option: ``scope`` (4-D tensors alone would leave
encoders without convolutions untouched, and the method would silently be its baseline), ``tie``
(equal scores damp the first modality there, an accident of an else branch), ``window_unit`` and
``ends`` (epochs there; a share here, so that a shorter run is modulated alike), ``eval_bias`` (of
sum fusion: o_m has its whole bias in training, and half of it in the released evaluation). More
than two modalities: the mean of the others is our extension; two may be damped at once.

Defaults: alpha 0.8 from the authors' README (CREMA-D; 0.1 for VGGSound); window 0..50 of 100 epochs
from their launch line.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.errors import Refused
from mmbench.method import Batch, Deviation, Needs, log_entries, of_trainer, setting
from mmbench.registry import register_method

from .arithmetic import against_others, true_class
from .gradients import in_scope, scale_gradients
from .modulated import Modulated, ModulatedConfig

TIE = 1e-6  # ratios closer to 1 than this are a tie


class OGMConfig(ModulatedConfig):
    """Options of OGM and OGM-GE."""

    alpha: float = setting(0.8, "strength of the damping", source="authors' README, CREMA-D", ge=0)
    ends: float = setting(
        0.5, "last epoch of the window, inclusive", source="authors' script: 50 of 100", ge=0
    )
    scope: Literal["ndim>=2", "conv4d"] = setting(
        "ndim>=2", "encoder tensors modulated: matrices and kernels, or 4-D only", source="mmbench"
    )
    tie: Literal["neither", "official"] = setting(
        "neither", "at equal scores damp nobody, or the first modality", source="mmbench"
    )
    ratio: Literal["rho", "rho_minus_1"] = setting(
        "rho", "what tanh sees; with rho the factor jumps at 1", source="paper Eq. 10"
    )
    eval_bias: Literal["whole", "half"] = setting(
        "whole", "of fusion=sum: share of the bias in evaluated unimodal logits", source="mmbench"
    )


def coefficients(
    rho: Mapping[str, Tensor], alpha: float, tie: str = "neither", ratio: str = "rho"
) -> dict[str, Tensor]:
    """Return the factor k_m of each encoder's gradient.

    Args:
        rho: scalar per modality, in the task's order.
        alpha: strength.
        tie: ``official`` damps the first modality whenever no other one leads.
        ratio: ``rho_minus_1`` removes the jump at rho = 1.
    """
    margin = TIE if tie == "neither" else 0.0
    leads = {m: r > 1 + margin for m, r in rho.items()}
    if tie == "official":
        first, *others = rho
        leads[first] = leads[first] | ~torch.stack([leads[m] for m in others]).any()
    shift = 1.0 if ratio == "rho_minus_1" else 0.0
    return {
        m: torch.where(leads[m], 1 - torch.tanh(alpha * (r - shift).relu()), torch.ones_like(r))
        for m, r in rho.items()
    }


@register_method("ogm")
class OGM(Modulated):
    """Slow the encoder of the modality that leads."""

    Config = OGMConfig
    config: OGMConfig
    needs = Needs(min_modalities=2, defined_for=2)
    reference = "Peng et al., CVPR 2022"
    authors = of_trainer(lr=0.001, epochs=100, batch_size=64, schedule="step", lr_step=0.7) | {
        "alpha": 0.8
    }
    deviations: ClassVar[tuple[Deviation, ...]] = (
        Deviation("scope", "ndim>=2", "conv4d", "Encoders without convolutions stay unmodulated."),
        Deviation("tie", "neither", "official", "Equal scores give no reason to damp the first."),
        Deviation("window_unit", "fraction", "epochs", "A shorter run is modulated alike."),
        Deviation("ends", 0.5, 50, "The same window, as a share of 100 epochs."),
        Deviation("eval_bias", "whole", "half", "Half a bias belongs to concatenation alone."),
    )

    def build(self) -> None:
        """Create the fusion head; refuse what would be its own baseline under this name.

        Raises:
            Refused: if no trainable parameter of an encoder is in scope.
        """
        super().build()
        for m, encoder in self.encoders.items():
            if next(in_scope(encoder, self.config.scope), None) is None:
                raise Refused(
                    f"{self.name} would modulate nothing: scope {self.config.scope!r} matches no "
                    f"trainable parameter of the encoder of {m!r}; set scope to 'ndim>=2' or "
                    "choose another encoder"
                )

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Minimise the cross-entropy of the fused logits with modulated encoder gradients."""
        z = self.encode(batch.inputs)
        loss = cross_entropy(self.fusion_head(z), batch.label)
        self.fit.backward(loss)
        with torch.no_grad():
            score = {m: true_class(o, batch.label) for m, o in self.fusion_head.split(z).items()}
            rho = against_others(score)
            k = {m: torch.ones_like(r) for m, r in rho.items()}
            if self.active:
                k = coefficients(rho, self.config.alpha, self.config.tie, self.config.ratio)
                self.modulate(k)
        self.fit.update()
        mean_score = {m: s / len(batch.label) for m, s in score.items()}
        return {"loss": loss, **log_entries(score=mean_score, ratio=rho, k=k)}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fused logits [B, C], and their split into modalities."""
        out = super().predict(inputs)
        if self.config.eval_bias == "half" and self.config.fusion == "sum":
            for m in self.names:
                out[m] = out[m] - self.get_parameter(f"fusion_head.heads.{m}.bias") / 2
        return out

    def modulate(self, k: Mapping[str, Tensor]) -> None:
        """Multiply the gradients of encoder m in scope by k_m."""
        for m, encoder in self.encoders.items():
            scale_gradients(in_scope(encoder, self.config.scope), k[m])
