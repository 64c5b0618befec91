"""Triton's kernels of `norm_pool`: a language of its own in Python's grammar.

A program works on a few positions and all channels, which lie side by side. Sizes are in upper
case: H and W of the images, R and S of the windows' rows and columns. One binary serves all of
them: Triton would otherwise build others for sizes of 1 and for multiples of 16.
"""

import triton
import triton.language as tl

DEAD = tl.constexpr(9)  # the code of a window without a positive value; 0 to 8 say where it is


@triton.jit(do_not_specialize=["count"])
def norm_pool_moments(y, near, sums, count, C: tl.constexpr, ROWS: tl.constexpr):
    """Sum per channel what the values differ by from one near their mean, and the squares."""
    c = tl.arange(0, C)[None, :]
    centre = tl.load(near + c)
    first = tl.zeros([ROWS, C], tl.float32)
    second = tl.zeros([ROWS, C], tl.float32)
    start = tl.program_id(0) * ROWS
    while start < count:
        row = start + tl.arange(0, ROWS)[:, None]
        start += tl.num_programs(0) * ROWS
        here = row < count
        x = tl.load(y + row.to(tl.int64) * C + c, here, 0).to(tl.float32)
        x = tl.where(here, x - centre, 0.0)
        first += x
        second += x * x
    into = sums + tl.program_id(0) * 2 * C + tl.arange(0, C)
    tl.store(into, tl.sum(first, 0))
    tl.store(into + C, tl.sum(second, 0))


@triton.jit(do_not_specialize=["H", "W", "R", "S"])
def norm_pool_forward(
    y, scale, shift, pooled, codes, picked, H, W, R, S, C: tl.constexpr, BLOCK: tl.constexpr
):
    """Find the maximum of each window of one row of them, where it is, and what it came from."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    c = tl.arange(0, C)[None, :]
    a, b = tl.load(scale + c), tl.load(shift + c)
    best = tl.full([BLOCK, C], float("-inf"), tl.float32)
    pick = tl.zeros([BLOCK, C], tl.float32)
    code = tl.zeros([BLOCK, C], tl.int32)
    for tap in tl.static_range(9):
        i, j = 2 * (row % R) - 1 + tap // 3, 2 * column - 1 + tap % 3
        inside = (i >= 0) & (i < H) & (j >= 0) & (j < W)
        x = tl.load(y + ((row // R * H + i).to(tl.int64) * W + j) * C + c, inside, 0)
        x = x.to(tl.float32)
        value = tl.where(inside, x * a + b, float("-inf"))
        more = (value > best) | (value != value)  # so that NaN is not lost
        best = tl.where(more, value, best)
        pick = tl.where(more, x, pick)
        code = tl.where(more, tap, code)
    dead = best <= 0
    at = (row.to(tl.int64) * S + column) * C + c
    tl.store(pooled + at, tl.where(dead, 0.0, best).to(pooled.dtype.element_ty), column < S)
    tl.store(codes + at, tl.where(dead, DEAD, code).to(tl.int8), column < S)
    tl.store(picked + at, pick.to(picked.dtype.element_ty), column < S)


@triton.jit(do_not_specialize=["count"])
def norm_pool_sums(
    gradient, codes, picked, mean, deviation, sums, count, C: tl.constexpr, ROWS: tl.constexpr
):
    """Sum what comes down per channel, and its product with the normalised values."""
    c = tl.arange(0, C)[None, :]
    centre, inverse = tl.load(mean + c), tl.load(deviation + c)
    first = tl.zeros([ROWS, C], tl.float32)
    second = tl.zeros([ROWS, C], tl.float32)
    start = tl.program_id(0) * ROWS
    while start < count:
        row = start + tl.arange(0, ROWS)[:, None]
        start += tl.num_programs(0) * ROWS
        at = row.to(tl.int64) * C + c
        alive = (row < count) & (tl.load(codes + at, row < count, DEAD) != DEAD)
        g = tl.load(gradient + at, row < count, 0).to(tl.float32)
        x = tl.load(picked + at, row < count, 0).to(tl.float32)
        g = tl.where(alive, g, 0.0)
        first += g
        second += g * ((x - centre) * inverse)
    into = sums + tl.program_id(0) * 2 * C + tl.arange(0, C)
    tl.store(into, tl.sum(first, 0))
    tl.store(into + C, tl.sum(second, 0))


@triton.jit
def _window(gradient, codes, at, inside):
    """Load the gradient of a window and the place of its maximum."""
    return (
        tl.load(gradient + at, inside, 0).to(tl.float32),
        tl.load(codes + at, inside, DEAD).to(tl.int32),
    )


@triton.jit
def _put(dv, y, a, slope, offset, result, at, inside):
    """Store the gradient of one of a window's positions."""
    x = tl.load(y + at, inside, 0).to(tl.float32)
    tl.store(result + at, (a * dv + slope * x + offset).to(result.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["H", "W", "R", "S"])
def norm_pool_backward(
    gradient, codes, y, scale, slope, offset, result, H, W, R, S,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Give each position what comes down from the windows whose maximum it is.

    A program works on two rows: windows overlap there and beyond, where the next ones begin.
    """
    row = tl.program_id(0)
    r = row % R
    s = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    c = tl.arange(0, C)[None, :]
    at = (row.to(tl.int64) * S + s) * C + c
    below = r + 1 < R
    g00, k00 = _window(gradient, codes, at, s < S)
    g01, k01 = _window(gradient, codes, at + C, s + 1 < S)
    g10, k10 = _window(gradient, codes, at + S * C, (s < S) & below)
    g11, k11 = _window(gradient, codes, at + S * C + C, (s + 1 < S) & below)
    a, m, b = tl.load(scale + c), tl.load(slope + c), tl.load(offset + c)
    i, j = 2 * r, 2 * s
    to = ((row // R * H + i).to(tl.int64) * W + j) * C + c
    dv = tl.where(k00 == 4, g00, 0.0)
    _put(dv, y, a, m, b, result, to, j < W)
    dv = tl.where(k00 == 5, g00, 0.0) + tl.where(k01 == 3, g01, 0.0)
    _put(dv, y, a, m, b, result, to + C, j + 1 < W)
    to = ((row // R * H + i + 1).to(tl.int64) * W + j) * C + c  # W may be a constant 1
    dv = tl.where(k00 == 7, g00, 0.0) + tl.where(k10 == 1, g10, 0.0)
    _put(dv, y, a, m, b, result, to, (j < W) & (i + 1 < H))
    dv = tl.where(k00 == 8, g00, 0.0) + tl.where(k01 == 6, g01, 0.0)
    dv += tl.where(k10 == 2, g10, 0.0) + tl.where(k11 == 0, g11, 0.0)
    _put(dv, y, a, m, b, result, to + C, (j + 1 < W) & (i + 1 < H))
