"""Sums over processes that can be differentiated, any number of times.

A value is either *common*, the same in all N processes, or *own*, different in each. Its gradient
is of the same kind; that of an own value is kept N times as large as it is. Then the gradient of a
parameter is the mean over processes of what each of them computes, whether it went through own
values (the parts add up, N times too large) or common ones (all are equal). Each function's
derivative is another one of this file, which is what second derivatives need.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmbench.ranks.group import Ranks

Context = Any  # torch gives the first argument of forward and backward no type


def _of(function: type[Function], *given: object) -> Tensor:
    out: Tensor = function.apply(*given)
    return out


class _Gather(Function):
    """Own rows [b, ...] to the common [B, ...]."""

    @staticmethod
    def forward(ctx: Context, own: Tensor, ranks: Ranks, sizes: Sequence[int]) -> Tensor:
        ctx.given = ranks, sizes
        rows = own.new_zeros(sum(sizes), *own.shape[1:])
        rows[ranks.own(sizes)] = own
        return ranks.add(rows)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> Any:
        return _of(_Take, gradients[0], *ctx.given), None, None


class _Take(Function):
    """The common [B, ...] to N times the own rows [b, ...]."""

    @staticmethod
    def forward(ctx: Context, rows: Tensor, ranks: Ranks, sizes: Sequence[int]) -> Tensor:
        ctx.given = ranks, sizes
        return rows[ranks.own(sizes)] * ranks.size

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> Any:
        return _of(_Gather, gradients[0].contiguous(), *ctx.given), None, None


class _Mean(Function):
    """An own value to the common mean."""

    @staticmethod
    def forward(ctx: Context, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.add(own.clone(memory_format=torch.contiguous_format)) / ranks.size

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> Any:
        return _of(_Copy, gradients[0], ctx.ranks), None


class _Copy(Function):
    """A common value as everybody's own."""

    @staticmethod
    def forward(ctx: Context, common: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return common.view_as(common)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> Any:
        return _of(_Mean, gradients[0], ctx.ranks), None


class _Total(Function):
    """An own value to the sum, as everybody's own."""

    @staticmethod
    def forward(ctx: Context, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.add(own.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> Any:
        return _of(_Total, gradients[0], ctx.ranks), None


def gather(own: Tensor, ranks: Ranks, sizes: Sequence[int]) -> Tensor:
    """Return all rows [B, ...] of which this process has ``own`` [b, ...]."""
    return _of(_Gather, own, ranks, sizes)


def take(rows: Tensor, ranks: Ranks, sizes: Sequence[int]) -> Tensor:
    """Return this process's rows [b, ...] of the common ``rows`` [B, ...]."""
    if not rows.requires_grad:
        return rows[ranks.own(sizes)]
    return _of(_Take, rows, ranks, sizes) / ranks.size


def mean(own: Tensor, ranks: Ranks) -> Tensor:
    """Return the mean of ``own`` over processes."""
    return _of(_Mean, own, ranks)


def total(own: Tensor, ranks: Ranks) -> Tensor:
    """Return the sum of ``own`` over processes, for use with own rows."""
    return _of(_Total, own, ranks)
