"""Encoders that take their share of the rows, and parameters that stay equal in all processes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmbench.errors import RanksDiffer
from mmbench.ranks.functions import gather, mean, take, total
from mmbench.ranks.group import Ranks
from mmbench.ranks.rows import Rows

MASKS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
DRIFT = 1e-2  # share of its norm by which a tensor may differ, where rounding is left to chance


class Split:
    """Divides the encoders of a method between processes; with one process it does nothing.

    Every encoder is called with the whole batch and returns the features of the whole batch, but
    encodes only the rows of its own process. So whatever a method computes from features is the
    same in every process, and is what one process would have computed.

    Args:
        method: on its device; its modules are changed in place, its names and state are not.
        ranks: the processes.
    """

    def __init__(self, method: nn.Module, ranks: Ranks) -> None:
        self.method, self.ranks = method, ranks
        self.together = False
        self.parameters: list[nn.Parameter] = []
        if ranks.size == 1:
            return
        encoders = method.get_submodule("encoders")
        layout = _Layout(ranks)
        for module in encoders.modules():
            for kind, forward in ((_BatchNorm, _batch_norm), (MASKS, _dropout)):
                if isinstance(module, kind):
                    vars(module)["forward"] = _Forward(module, forward, layout)
        for encoder in encoders.children():
            vars(encoder)["forward"] = _Forward(encoder, _encode, layout)
        self.parameters = [p for p in encoders.parameters() if p.requires_grad]
        for p in self.parameters:
            p.register_hook(self._average)

    def _average(self, gradient: Tensor) -> Tensor | None:
        return None if self.together else mean(gradient, self.ranks)

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Run a backward pass whose gradients are averaged once, at its end.

        A ``grad`` that was there before is the same everywhere, so that averaging leaves it alone.
        """
        self.together = True
        try:
            yield
        finally:
            self.together = False
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for p in self.parameters:
            if p.grad is not None:
                by_type.setdefault(p.grad.dtype, []).append(p.grad)
        for grads in by_type.values():
            flat = self.ranks.add(torch.cat([g.flatten() for g in grads])).div_(self.ranks.size)
            for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
                g.copy_(part.view_as(g))

    @torch.no_grad()
    def align(self) -> None:
        """Give all processes the state of the first, so that rounding on GPUs cannot add up.

        Raises:
            RanksDiffer: if they differ by more than rounding.
        """
        if self.ranks.size == 1:
            return
        gaps: dict[str, Tensor] = {}
        for name, value in self.method.state_dict().items():
            if not isinstance(value, Tensor):
                continue
            theirs = self.ranks.copy_first(value.clone(memory_format=torch.contiguous_format))
            fine = theirs.double() if value.dtype != torch.float32 else theirs
            gap = (value.to(fine.dtype) - fine).norm()
            gaps[name] = (gap > DRIFT * fine.norm() + torch.finfo(fine.dtype).tiny).to(torch.int64)
            value.copy_(theirs)
        apart = self.ranks.add(torch.stack(list(gaps.values()))).tolist()
        for name, count in zip(gaps, apart, strict=True):
            if count:
                raise RanksDiffer(
                    f"the processes of this cell no longer agree on {name!r}; draw random numbers "
                    "from self.fit.generator(tag), and let nothing depend on time or on the process"
                )


@dataclass
class _Layout:
    """How the rows of the batch that is being encoded are divided; None: they are not."""

    ranks: Ranks
    sizes: tuple[int, ...] | None = None

    @contextmanager
    def divided(self, sizes: Sequence[int]) -> Iterator[None]:
        self.sizes = tuple(sizes)
        try:
            yield
        finally:
            self.sizes = None


class _Forward:
    """Stands before the forward of a module; unlike a wrapper it leaves all names as they are."""

    def __init__(self, module: nn.Module, forward: Callable[..., Tensor], layout: _Layout) -> None:
        self.module, self.forward, self.layout = module, forward, layout

    def __call__(self, x: Tensor, *more: Any, **named: Any) -> Tensor:  # Any: passed through
        return self.forward(self.module, self.layout, x, *more, **named)


def _plain(module: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = type(module).forward(module, x)
    return out


def _encode(encoder: nn.Module, layout: _Layout, x: Tensor) -> Tensor:
    """Return the features [B, d] of all rows of ``x`` [B, *shape], having encoded the own ones.

    Where a process would have none, as of a single row, everybody encodes all.
    """
    ranks = layout.ranks
    if isinstance(x, Rows):
        sizes, own = x.sizes, x.own
    else:
        sizes = ranks.shares(len(x))
        own = take(x, ranks, sizes)
    if min(sizes) == 0:
        return _plain(encoder, x.whole() if isinstance(x, Rows) else x)
    with layout.divided(sizes):
        z = _plain(encoder, own)
    return gather(z, ranks, sizes)


def _batch_norm(norm: _BatchNorm, layout: _Layout, x: Tensor) -> Tensor:
    """Normalise with the statistics of all rows, as the module would; [b k, C, ...], k any."""
    if layout.sizes is None or not (norm.training or norm.running_mean is None):
        return _plain(norm, x)
    ranks, sizes = layout.ranks, layout.sizes
    each = x.numel() // x.shape[1] // sizes[ranks.rank]  # values per channel and row
    count = each * sum(sizes)
    if count == 1:
        raise ValueError(f"batch norm needs more than 1 value per channel; found {tuple(x.shape)}")
    dims = [0, *range(2, x.dim())]
    shape = (1, -1, *[1] * (x.dim() - 2))
    fine = x.to(torch.promote_types(x.dtype, torch.float32))
    table = fine.new_zeros(ranks.size, 2, x.shape[1])
    table[ranks.rank] = torch.stack(torch.var_mean(fine, dims, correction=0))
    spreads, centres = total(table, ranks).unbind(1)  # one sum brings everybody's
    shares = [size / sum(sizes) for size in sizes]
    centre = torch.stack([s * c for s, c in zip(shares, centres, strict=True)]).sum(0)
    parts = zip(shares, spreads, centres, strict=True)
    variance = torch.stack([s * (v + (c - centre).square()) for s, v, c in parts]).sum(0)
    if norm.training and norm.track_running_stats:
        _remember(norm, centre.detach(), variance.detach() * (count / (count - 1)))
    scale = (variance + norm.eps).rsqrt()
    out = (fine - centre.view(shape)) * (scale * norm.weight if norm.affine else scale).view(shape)
    return (out + norm.bias.view(shape) if norm.affine else out).to(x.dtype)


@torch.no_grad()
def _remember(norm: _BatchNorm, centre: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as torch's batch norm does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    share: float | Tensor = norm.momentum if norm.momentum is not None else 0.0
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:  # a plain average over batches
            share = 1.0 / norm.num_batches_tracked.to(norm.running_mean.dtype)
    for running, now in ((norm.running_mean, centre), (norm.running_var, variance)):
        running.copy_((1 - share) * running + share * now.to(running.dtype))


def _dropout(drop: nn.Module, layout: _Layout, x: Tensor) -> Tensor:
    """Drop what one process would have dropped: the mask is drawn for all rows, the batch first."""
    if layout.sizes is None or not drop.training:
        return _plain(drop, x)
    ranks, sizes = layout.ranks, layout.sizes
    each = len(x) // sizes[ranks.rank]
    mine = ranks.own(sizes)
    mask = _plain(drop, x.new_ones(sum(sizes) * each, *x.shape[1:]))
    return x * mask[mine.start * each : mine.stop * each]
