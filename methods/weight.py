"""Weight: features are averaged with weights per sample, then one shared head.

Source: the module CMML3 of njustkmg/IJCAI25-IPRM, named after Yang et al., "Comprehensive
Semi-Supervised Multi-Modal Learning", IJCAI 2019.
    A_m = softmax over the d features of z_m;  w_m = A_m / sum_j A_j   (per sample and feature)
    h = sum_m w_m z_m;  o = W h + b;  o_m = W z_m + b;  L = CE(o, y)

Deviation: w is computed as a softmax over m of log A_m, which is the same and cannot be 0/0.
The training script of the naive methods is not released: that L has no unimodal terms is a
reading (methods.md section 1). ``weight=learned_gate`` is closer to the CMML text: a small MLP
gives one score per sample and modality.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmbench.method import Batch, Method, MethodConfig, log_entries
from mmbench.registry import register_method
from mmbench.settings import setting


class WeightConfig(MethodConfig):
    """Options of weight."""

    weight: Literal["cmml_softmax", "learned_gate"] = setting(
        "cmml_softmax", "how the weights are made", source="IPRM repository, CMML3"
    )


def softmax_weights(z: Tensor) -> Tensor:
    """Return w [M, B, d], summing to 1 over modalities, from features z [M, B, d]."""
    return z.log_softmax(-1).softmax(0)


@register_method("weight")
class Weight(Method):
    """Features averaged with weights per sample, then one shared head."""

    Config = WeightConfig
    config: WeightConfig

    def build(self) -> None:
        """Create the shared head, and the gate if asked."""
        self.shared_head = nn.Linear(self.width, self.classes)
        self.gate: nn.Module | None = None
        if self.config.weight == "learned_gate":
            half = max(1, self.width // 2)
            self.gate = nn.Sequential(nn.Linear(self.width, half), nn.Tanh(), nn.Linear(half, 1))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Minimise the cross-entropy of the fused logits."""
        z = self.encode(batch.inputs)
        fused, w = self._fuse(z)
        loss = cross_entropy(self.shared_head(fused), batch.label)
        self.fit.backward(loss)
        self.fit.update()
        means = w.mean((1, 2)).unbind()
        return {"loss": loss, **log_entries(w=dict(zip(self.names, means, strict=True)))}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fused logits, and every modality's through the same head."""
        z = self.encode(inputs)
        own = {m: self.shared_head(z[m]) for m in self.names}
        return {"fused": self.shared_head(self._fuse(z)[0]), **own}

    def _fuse(self, z: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        stacked = torch.stack([z[m] for m in self.names])
        w = softmax_weights(stacked) if self.gate is None else self.gate(stacked).softmax(0)
        return (w * stacked).sum(0), w
