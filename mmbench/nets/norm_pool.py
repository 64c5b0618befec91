"""Batch norm, ReLU and a 3x3 max pool of stride 2 as one operation on a GPU.

The three follow a ResNet's first convolution, whose output is the largest tensor of the network,
and memory limits them: one after the other they read or write it 15 times in a training step,
together 4 times, besides what the pool leaves, a quarter in size. The mathematics is that of the
three modules in training mode (statistics in float32, the first maximum of a window gets its
gradient); results differ from theirs by rounding.

Tensors are [N, C, H, W] in channels_last, for the kernels [N, H, W, C] without gaps. They are not
permuted for the operations: torch's compiler lays out what a convolution's successors save in
channels_last as it sees the dimensions, and would copy what has another order. Triton launches on
the current device, so each launch names the tensors' own.
"""

import torch
import triton
from torch import Tensor, nn
from torch.nn.functional import batch_norm, max_pool2d

from mmbench.nets import norm_pool_kernels as kernels

BLOCK, ROWS = 16, 64  # positions that a program works on at once
PROGRAMS = 1024  # at most, that share a sum over all positions


def norm_relu_pool(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Return ``max_pool2d(relu(norm(x)), 3, stride=2, padding=1)`` for a norm in training mode.

    Args:
        x: [N, C, H, W]; C is a power of two.
        norm: as torchvision's ResNets have it (affine, running statistics, a momentum); its
            statistics are brought up to date.

    Returns:
        [N, C, ceil(H / 2), ceil(W / 2)] in channels_last.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    pooled: Tensor
    pooled, _, _, mean, variance = _forward(x, norm.weight, norm.bias, norm.eps)
    _remember(norm, mean, variance, x.numel() // x.shape[1])
    return pooled


@torch.no_grad()
def _remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    momentum = float(norm.momentum)  # type: ignore[arg-type]  # None is not for this operation
    norm.get_buffer("running_mean").lerp_(mean, momentum)
    norm.get_buffer("running_var").lerp_(variance * (count / (count - 1)), momentum)
    norm.get_buffer("num_batches_tracked").add_(1)


@torch.library.custom_op("mmbench::norm_relu_pool", mutates_args=())
def _forward(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return pooled values, codes and pre-norm values of the maxima, and mean and variance [C]."""
    n, c, h, w = y.shape
    count = n * h * w
    programs = min(PROGRAMS, triton.cdiv(count, ROWS))
    sums = y.new_empty(programs, 2, c, dtype=torch.float32)
    near = y[n // 2, :, h // 2].float().mean(1)  # of the mean, so that squares do not cancel
    with torch.cuda.device_of(y):
        kernels.norm_pool_moments[(programs,)](y, near, sums, count, c, ROWS, num_warps=8)
    first, second = sums.sum(0, dtype=torch.float64) / count
    mean = (first + near).float()
    variance = (second - first.square()).clamp_(min=0).float()
    scale = weight * torch.rsqrt(variance + eps)
    pooled, codes, picked = _windows(y)
    rows, columns = pooled.shape[2:]
    with torch.cuda.device_of(y):
        kernels.norm_pool_forward[(n * rows, triton.cdiv(columns, BLOCK))](
            y, scale, bias - mean * scale, pooled, codes, picked, h, w, rows, columns, c, BLOCK
        )
    return pooled, codes, picked, mean, variance


def _windows(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, c, h, w = y.shape
    size = (n, c, (h + 1) // 2, (w + 1) // 2)
    pooled = torch.empty(size, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
    return pooled, torch.empty_like(pooled, dtype=torch.int8), torch.empty_like(pooled)


@_forward.register_fake
def _(y: Tensor, *_: object) -> tuple[Tensor, ...]:
    mean = y.new_empty(y.shape[1], dtype=torch.float32)
    return (*_windows(y), mean, torch.empty_like(mean))


@torch.library.custom_op("mmbench::norm_relu_pool_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    y: Tensor,
    codes: Tensor,
    picked: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``y``, weight and bias."""
    n, c, h, w = y.shape
    _, _, rows, columns = codes.shape
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    pooled = n * rows * columns
    programs = min(PROGRAMS, triton.cdiv(pooled, ROWS))
    sums = y.new_empty(programs, 2, c, dtype=torch.float32)
    deviation = torch.rsqrt(variance + eps)
    with torch.cuda.device_of(y):
        kernels.norm_pool_sums[(programs,)](
            gradient, codes, picked, mean, deviation, sums, pooled, c, ROWS, num_warps=8
        )
    of_bias, of_weight = sums.sum(0)
    scale, count = weight * deviation, n * h * w
    slope = -scale * deviation * of_weight / count
    offset = -scale * of_bias / count - slope * mean
    result = torch.empty_like(y)
    with torch.cuda.device_of(y):
        kernels.norm_pool_backward[(n * rows, triton.cdiv(columns, BLOCK))](
            gradient, codes, y, scale, slope, offset, result, h, w, rows, columns, c, BLOCK
        )
    return result, of_weight.clone(), of_bias.clone()


@_backward.register_fake
def _(
    gradient: Tensor, y: Tensor, codes: Tensor, picked: Tensor, weight: Tensor, *_: object
) -> tuple[Tensor, ...]:
    return torch.empty_like(y), torch.empty_like(weight), torch.empty_like(weight)


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # torch's own signature
    y, weight, bias, ctx.eps = inputs
    _, codes, picked, mean, variance = output
    ctx.save_for_backward(y, weight, bias, codes, picked, mean, variance)
    ctx.mark_non_differentiable(codes, picked, mean, variance)


def _differentiate(ctx, gradient, *_):  # type: ignore[no-untyped-def]  # torch's own signature
    y, weight, bias, codes, picked, mean, variance = ctx.saved_tensors
    if (
        torch.is_grad_enabled()
    ):  # the gradients' own gradients are wanted, which torch's modules have
        modules = _by_modules(y, weight, bias, ctx.eps)
        sources = [t for t in (y, weight, bias) if t.requires_grad]
        found = iter(torch.autograd.grad(modules, sources, gradient, create_graph=True))
        return (*(next(found) if t.requires_grad else None for t in (y, weight, bias)), None)
    return (*_backward(gradient, y, codes, picked, weight, mean, variance, ctx.eps), None)


def _by_modules(y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    x = batch_norm(y, None, None, weight, bias, training=True, eps=eps)
    return max_pool2d(x.relu(), 3, stride=2, padding=1)


_forward.register_autograd(_differentiate, setup_context=_keep)
