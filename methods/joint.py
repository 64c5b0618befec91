"""Joint: the concat loss plus every modality's own loss, without any balancing.

    L = CE(o, y) + sum_m CE(o_m, y),  o = W [z_1; ...; z_M] + b,  o_m = W_m z_m + b_m

The control for methods that add unimodal losses and then re-weight them or edit their gradients:
what remains of their gain once the extra supervision alone is given. A baseline of mmbench, not
of a paper; with every weight at 1 it is the blended loss of methods.md section 2.
Defaults: none of its own.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.method import Batch, Method, log_entries
from mmbench.nets.heads import ConcatHead, own_heads
from mmbench.registry import register_method


@register_method("joint")
class Joint(Method):
    """The concat loss plus every modality's own loss, without any balancing."""

    def build(self) -> None:
        """Create the fusion head, and one head per modality."""
        self.fusion_head = ConcatHead(self.names, self.width, self.classes)
        self.heads = own_heads(self.names, self.width, self.classes)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Minimise the plain sum of all cross-entropies."""
        logits = self.predict(batch.inputs)
        losses = {name: cross_entropy(o, batch.label) for name, o in logits.items()}
        total = torch.stack(list(losses.values())).sum()
        self.fit.backward(total)
        self.fit.update()
        return {"loss": total, **log_entries(loss=losses)}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fused logits, and those of every modality's own head."""
        z = self.encode(inputs)
        return {"fused": self.fusion_head(z), **{m: self.heads[m](z[m]) for m in self.names}}
