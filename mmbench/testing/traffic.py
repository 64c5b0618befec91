"""The least that a training step takes on a device: arithmetic and memory traffic, counted.

A bound for networks of convolutions and batch norms, whatever computes them: every convolution
reads its factors and writes its result once, and everything between two convolutions is one
operation that reads and writes what it must. No implementation can take less from memory unless it
keeps tensors on the processor from one operation to the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count

CONVOLUTIONS, NORMS = "convolutions", "norm, ReLU, pool, sum"
aten = torch.ops.aten


@dataclass(frozen=True)
class Work:
    """What one operation needs: floating-point operations, and elements read or written."""

    kind: str
    flops: int
    elements: int

    def seconds(self, flops: float, bandwidth: float, width: int) -> float:
        """Return the least time at so many operations and bytes a second, of ``width`` bytes each.

        Arithmetic and traffic overlap within an operation.
        """
        traffic = self.elements * width / bandwidth  # below 0: what another one is spared
        return max(self.flops / flops, traffic) if self.flops else traffic


class Traffic(TorchDispatchMode):
    """Notes the `Work` of each operation on tensors [N, C, H, W] while it is entered.

    A norm goes through its input once for the statistics and once to apply them, and in the
    backward pass through input and gradient likewise. ReLU comes with it, a sum with one more
    tensor to read, and a max pool leaves the norm that much less to write and its gradient to read.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Work] = []

    def __torch_dispatch__(
        self,
        func: Any,  # an operator; torch gives them no type
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and note it."""
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet is aten.convolution:
            self._product(args[0], args[1], out, [out, args[0], args[1]])
        elif packet is aten.convolution_backward:
            gradient, x, weight = args[:3]
            if args[-1][0]:
                self._product(x, weight, gradient, [gradient, weight, x])
            if args[-1][1]:
                self._product(x, weight, gradient, [gradient, x, weight])
        elif packet is aten.native_batch_norm:
            self._pass(3 * args[0].numel())
        elif packet is aten.native_batch_norm_backward:
            self._pass(5 * args[1].numel())
        elif packet is aten.max_pool2d_with_indices:
            self._pass(-3 * (args[0].numel() - out[0].numel()))
        elif packet in (aten.add, aten.add_) and out.dim() == 4:
            self._pass(out.numel())
        return out

    def _product(self, x: Tensor, weight: Tensor, out: Tensor, moved: Sequence[Tensor]) -> None:
        flops = conv_flop_count(list(x.shape), list(weight.shape), list(out.shape))
        elements = sum(prod(tensor.shape) for tensor in moved)
        self.found.append(Work(CONVOLUTIONS, flops, elements))

    def _pass(self, elements: int) -> None:
        self.found.append(Work(NORMS, 0, elements))
