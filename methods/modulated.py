"""What the methods share that intervene in a part of training on a plain fusion model.

A fusion head of choice (one layer on the concatenation, or the sum of own heads), and a window of
epochs in which the method acts. Not a method itself.
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor

from mmbench.method import Method, MethodConfig, setting
from mmbench.nets.heads import ConcatHead, SumHead


def window(start: float, end: float, epoch: int, epochs: int) -> bool:
    """Say whether ``epoch`` lies in a window given as shares of the run, both ends inclusive.

    The released scripts write 0..50 of 100 epochs, both inclusive: here 0.0 and 0.5.
    """
    # in floating point 0.7 * 90 lies just below 63
    return round(start * epochs, 9) <= epoch <= round(end * epochs, 9)


class WindowConfig(MethodConfig):
    """When the method acts."""

    starts: float = setting(0.0, "first epoch of the window", source="authors' script", ge=0)
    ends: float = setting(1.0, "last epoch of the window, inclusive", source="mmbench", ge=0)
    window_unit: Literal["fraction", "epochs"] = setting(
        "fraction", "starts and ends are shares of the run, or epochs", source="mmbench"
    )

    @model_validator(mode="after")
    def _window_makes_sense(self) -> Self:
        if self.starts > self.ends:
            raise ValueError(
                f"the window starts at {self.starts} and ends at {self.ends}: give starts <= ends"
            )
        if self.window_unit == "fraction" and self.ends > 1:
            raise ValueError(
                f"ends={self.ends} is no share of the run: give at most 1, "
                "or set window_unit=epochs"
            )
        return self

    def acts(self, epoch: int, epochs: int) -> bool:
        """Say whether ``epoch`` (from 0) of ``epochs`` lies in the window, ends inclusive."""
        return self.spans(self.starts, self.ends, epoch, epochs)

    def spans(self, starts: float, ends: float, epoch: int, epochs: int) -> bool:
        """Say the same of another window, given in ``window_unit``."""
        if self.window_unit == "epochs":
            return starts <= epoch <= ends
        return window(starts, ends, epoch, epochs)


class ModulatedConfig(WindowConfig):
    """The fusion head, and when the method acts."""

    fusion: Literal["concat", "sum"] = setting(
        "concat", "one layer on the concatenation, or the sum of own heads", source="paper"
    )


class Modulated(Method):
    """A fusion model whose training a subclass modulates inside the window."""

    config: ModulatedConfig

    def build(self) -> None:
        """Create the fusion head."""
        head = ConcatHead if self.config.fusion == "concat" else SumHead
        self.fusion_head = head(self.names, self.width, self.classes)

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fused logits [B, C], and their split into modalities."""
        z = self.encode(inputs)
        return {"fused": self.fusion_head(z), **self.fusion_head.split(z)}

    @property
    def active(self) -> bool:
        """Whether this epoch lies in the window."""
        return self.config.acts(self.fit.epoch, self.fit.epochs)
