"""Ensemble: unimodal models that never meet in training; their logits are averaged.

    L = sum_m CE(o_m, y),  o_m = W_m z_m + b_m,  prediction o = (1/M) sum_m o_m

No parameter is shared, so each encoder and head sees the gradient of its own loss alone and
learns as ``unimodal`` would. It tells what late fusion gives without any joint training. A
baseline of mmbench, not of a paper (its parts are methods.md section 1).
``trainer.clip_norm`` is the one setting that couples the modalities: it bounds their common norm.
Defaults: none of its own.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.method import Batch, Method, log_entries
from mmbench.nets.heads import own_heads
from mmbench.registry import register_method


@register_method("ensemble")
class Ensemble(Method):
    """Unimodal models that never meet in training; their logits are averaged."""

    def build(self) -> None:
        """Create one head per modality."""
        self.heads = own_heads(self.names, self.width, self.classes)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Minimise every modality's own cross-entropy; one backward, as they share nothing."""
        z = self.encode(batch.inputs)
        losses = {m: cross_entropy(self.heads[m](z[m]), batch.label) for m in self.names}
        total = torch.stack(list(losses.values())).sum()
        self.fit.backward(total)
        self.fit.update()
        return {"loss": total, **log_entries(loss=losses)}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every modality's logits, and their mean."""
        z = self.encode(inputs)
        logits = {m: self.heads[m](z[m]) for m in self.names}
        return {"fused": torch.stack(list(logits.values())).mean(0), **logits}
