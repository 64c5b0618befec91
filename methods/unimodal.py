"""Unimodal: one encoder and one head, trained alone; one cell per modality.

The yardstick of every comparison: a fused model below its best unimodal model gains nothing from
fusion. L = CE(o_m, y) with o_m = W_m z_m + b_m; other encoders are not built.
Defaults: none of its own (methods.md section 1).
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.dataset import Task
from mmbench.errors import nearest
from mmbench.method import Batch, Method, MethodConfig
from mmbench.nets.heads import own_heads
from mmbench.registry import register_method
from mmbench.settings import setting


class UnimodalConfig(MethodConfig):
    """Options of unimodal."""

    modality: str = setting(
        "", "the modality; empty: the first", source="mmbench: the sweep makes one cell for each"
    )


@register_method("unimodal")
class Unimodal(Method):
    """One encoder and head, trained alone; one cell per modality."""

    Config = UnimodalConfig
    config: UnimodalConfig

    @classmethod
    def variants(cls, task: Task) -> list[dict[str, object]]:
        """One cell per modality."""
        return [{"modality": m} for m in task.names]

    @classmethod
    def label(cls, config: UnimodalConfig) -> str:
        """Name the row after the modality."""
        return f"{cls.name}-{config.modality}" if config.modality else cls.name

    @classmethod
    def modalities(cls, task: Task, config: UnimodalConfig) -> tuple[str, ...]:
        """Build this modality's encoder only."""
        return (config.modality or task.names[0],)

    @classmethod
    def refuse(cls, task: Task, config: UnimodalConfig) -> str | None:
        """Refuse a modality that the task does not have."""
        if config.modality and config.modality not in task.names:
            return (
                f"no modality {config.modality!r}{nearest(config.modality, task.names)} "
                f"(there are {', '.join(task.names)})"
            )
        return super().refuse(task, config)

    def build(self) -> None:
        """Create the head."""
        self.heads = own_heads(self.names, self.width, self.classes)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Minimise the modality's own cross-entropy."""
        (m,) = self.names
        loss = cross_entropy(self.heads[m](self.encode(batch.inputs)[m]), batch.label)
        self.fit.backward(loss)
        self.fit.update()
        return {"loss": loss}

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fused prediction is the modality's own."""
        (m,) = self.names
        logits = self.heads[m](self.encode(inputs)[m])
        return {"fused": logits, m: logits}
