"""A batch's input of which each process holds its own rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mmbench.ranks.functions import gather
from mmbench.ranks.group import Ranks

aten = torch.ops.aten
SHAPE_ALONE = {  # of their first argument they look at shape, type and device
    aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default,
    aten.full_like.default, aten.rand_like.default, aten.randn_like.default,
    aten.new_zeros.default, aten.new_ones.default, aten.new_empty.default, aten.new_full.default,
}  # fmt: skip


class Rows(Tensor):
    """Looks like the whole [B, *shape]; only this process's rows are here.

    A part of it (``x[:8]``) is of the same kind. What else is done with it is done on all rows,
    which are fetched first: right in any case, and dear where it is done to whole batches.

    Args:
        own: [b, *shape], the rows of this process.
        sizes: number of rows in each process, in order.
        ranks: the processes.
    """

    own: Tensor
    sizes: tuple[int, ...]
    ranks: Ranks

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch asks

    def __new__(cls, own: Tensor, sizes: Sequence[int], ranks: Ranks) -> "Rows":
        """Make the stand-in."""
        shape = (sum(sizes), *own.shape[1:])
        made: Rows = Tensor._make_wrapper_subclass(cls, shape, dtype=own.dtype, device=own.device)
        made.own, made.sizes, made.ranks = own, tuple(sizes), ranks
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # Any: torch's own options
        return f"Rows(shape={tuple(self.shape)}, sizes={self.sizes}, rank={self.ranks.rank})"

    def whole(self) -> Tensor:
        """Return all rows [B, *shape], fetched from the other processes."""
        return gather(self.own, self.ranks, self.sizes)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Rows":
        """Return the rows as ``change`` of [B, *shape] would make them.

        It may draw random numbers for all rows, but must treat each by itself: the rows of the
        other processes are zero here.
        """
        mine = self.ranks.own(self.sizes)
        rows = self.own.new_zeros(self.shape)
        rows[mine] = self.own
        return Rows(change(rows)[mine].contiguous(), self.sizes, self.ranks)

    def part(self, start: int, stop: int) -> "Rows":
        """Return rows ``start`` to ``stop``, still in the process that has them."""
        begin, sizes = 0, []
        for size in self.sizes:
            sizes.append(max(0, min(stop, begin + size) - max(start, begin)))
            begin += size
        here = self.ranks.own(self.sizes).start
        first = min(max(start - here, 0), len(self.own))
        return Rows(self.own[first : first + sizes[self.ranks.rank]], sizes, self.ranks)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # its stub is not a class method
        cls,
        func: Any,  # Any: an operator overload, which torch does not type
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do what keeps the rows apart here; for the rest, fetch all rows."""
        kwargs = dict(kwargs or {})
        x = args[0] if args else None
        if isinstance(x, Rows):
            if func in (aten.detach.default, aten.alias.default):
                return Rows(x.own, x.sizes, x.ranks)
            if func is aten.slice.Tensor and _rows_in_order(args):
                start, stop, _ = slice(*args[2:4]).indices(len(x)) if len(args) > 2 else (
                    0, len(x), 1)  # fmt: skip
                return x.part(start, max(start, stop))
            if func in SHAPE_ALONE:
                return func(x.own.new_empty(()).expand(x.shape), *args[1:], **kwargs)
        fetched = tree_map(lambda a: a.whole() if isinstance(a, Rows) else a, (args, kwargs))
        return func(*fetched[0], **fetched[1])


def _rows_in_order(args: Sequence[Any]) -> bool:  # Any: of aten.slice
    return (len(args) < 2 or args[1] == 0) and (len(args) < 5 or args[4] == 1)
