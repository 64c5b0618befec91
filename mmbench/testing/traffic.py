"""The least that a training step takes on a device: arithmetic and memory traffic, counted.

For networks of convolutions and batch norms, of which each convolution is one operation, and so is
what lies between two of them: norm, ReLU, pool and sum. Each reads its inputs from memory and
writes its result there. Only what fuses norms into convolutions, or keeps a tensor on the processor
from one operation to the next, takes less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    backward pass through input and gradient likewise, which it writes: eight times. ReLU comes with
    it. A sum reads one more tensor in either direction; where it is of two norms, they write one
    tensor and read one gradient. A max pool leaves only its own size to be written, and to be read
    of the gradient, and for the statistics of the backward pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Work] = []
        self.normed: list[Tensor] = []

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
            self._product(args[0], args[1], out, out.numel() + _read(args[0], args[1], out))
        elif packet is aten.convolution_backward:
            gradient, x, weight = args[:3]
            if args[-1][0]:
                self._product(x, weight, gradient, gradient.numel() + x.numel())
            if args[-1][1]:
                self._product(x, weight, gradient, gradient.numel() + _read(x, weight, gradient))
        elif packet is aten.native_batch_norm:
            self._pass(3 * args[0].numel())
            self.normed.append(out[0])
        elif packet is aten.native_batch_norm_backward:
            self._pass(5 * args[1].numel())
        elif packet is aten.max_pool2d_with_indices:
            self._pass(-4 * (args[0].numel() - out[0].numel()))
        elif packet in (aten.add, aten.add_) and out.dim() == 4:
            both = all(any(term is normed for normed in self.normed) for term in args[:2])
            self._pass((-3 if both else 1) * out.numel())
        if func._schema.is_mutable:  # what was the result of a norm is another one now
            self.normed = [normed for normed in self.normed if normed is not args[0]]
        return out

    def _product(self, x: Tensor, weight: Tensor, out: Tensor, moved: int) -> None:
        flops = conv_flop_count(list(x.shape), list(weight.shape), list(out.shape))
        self.found.append(Work(CONVOLUTIONS, flops, moved + weight.numel()))

    def _pass(self, elements: int) -> None:
        self.found.append(Work(NORMS, 0, elements))


def _read(x: Tensor, weight: Tensor, out: Tensor) -> int:
    """Return how many elements of ``x`` a convolution looks at: a stride may leave some out."""
    return min(x.numel(), out.numel() // out.shape[1] * weight[0].numel())
