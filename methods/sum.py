"""Sum: the logits of every modality's own head are added.

L = CE(o, y), o = sum_m (W_m z_m + b_m); unimodal logits are the summands (methods.md section 1).
LFM's variant averages instead, which is the same decision with another loss temperature.
Defaults: none of its own.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.method import Batch, Method
from mmbench.nets.heads import own_heads
from mmbench.registry import register_method


@register_method("sum")
class Sum(Method):
    """The logits of every modality's own head, added."""

    def build(self) -> None:
        """Create the heads."""
        self.heads = own_heads(self.names, self.width, self.classes)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Minimise the cross-entropy of the summed logits."""
        loss = cross_entropy(self.predict(batch.inputs)["fused"], batch.label)
        self.fit.backward(loss)
        self.fit.update()
        return {"loss": loss}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The summands, and their sum."""
        z = self.encode(inputs)
        logits = {m: self.heads[m](z[m]) for m in self.names}
        return {"fused": torch.stack(list(logits.values())).sum(0), **logits}
