"""Concat: one linear layer on the concatenated features; the baseline of every comparison.

L = CE(o, y), o = W [z_1; ...; z_M] + b. Unimodal logits are the blocks of W with b / M, so that
they sum to o, as the IPRM authors' ConcatFusion3 does (methods.md section 1).
Defaults: none of its own.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.method import Batch, Method
from mmbench.nets.heads import ConcatHead
from mmbench.registry import register_method


@register_method("concat")
class Concat(Method):
    """One linear layer on the concatenated features."""

    def build(self) -> None:
        """Create the fusion head."""
        self.fusion_head = ConcatHead(self.names, self.width, self.classes)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Minimise the cross-entropy of the fused logits."""
        loss = cross_entropy(self.fusion_head(self.encode(batch.inputs)), batch.label)
        self.fit.backward(loss)
        self.fit.update()
        return {"loss": loss}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fused logits, and their blocks per modality."""
        z = self.encode(inputs)
        return {"fused": self.fusion_head(z), **self.fusion_head.split(z)}
