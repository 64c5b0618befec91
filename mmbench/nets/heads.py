"""Heads that several methods share."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class ConcatHead(nn.Module):
    """One linear layer on the concatenated features, which splits into unimodal logits.

    Args:
        names: the modalities, in order.
        width: width of each feature.
        classes: number of classes.
    """

    def __init__(self, names: Iterable[str], width: int, classes: int) -> None:
        super().__init__()
        self.names, self.width = tuple(names), width
        self.linear = nn.Linear(width * len(self.names), classes)

    def forward(self, z: Mapping[str, Tensor]) -> Tensor:
        """Return the fused logits [B, C] of features z_m [B, d]."""
        out: Tensor = self.linear(torch.cat([z[m] for m in self.names], 1))
        return out

    def split(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return o_m = W[:, block m] z_m + b / M, whose sum is the fused logits."""
        blocks = self.linear.weight.split(self.width, 1)
        share = self.linear.bias / len(self.names)
        return {m: z[m] @ block.T + share for m, block in zip(self.names, blocks, strict=True)}


class SumHead(nn.Module):
    """One linear head per modality, added; the same interface as ``ConcatHead``.

    Args:
        names: the modalities, in order.
        width: width of each feature.
        classes: number of classes.
    """

    def __init__(self, names: Iterable[str], width: int, classes: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.heads = own_heads(self.names, width, classes)

    def forward(self, z: Mapping[str, Tensor]) -> Tensor:
        """Return the fused logits [B, C] of features z_m [B, d]."""
        return torch.stack(list(self.split(z).values())).sum(0)

    def split(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return o_m = W_m z_m + b_m, with the whole bias in training and evaluation alike."""
        return {m: self.heads[m](z[m]) for m in self.names}


def own_heads(names: Iterable[str], width: int, classes: int) -> nn.ModuleDict:
    """Return one linear head per modality."""
    return nn.ModuleDict({m: nn.Linear(width, classes) for m in names})
