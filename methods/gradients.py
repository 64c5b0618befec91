"""What the methods share that edit the encoders' gradients. Not a method itself."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn


def in_scope(encoder: nn.Module, scope: str) -> Iterator[nn.Parameter]:
    """Yield the trainable parameters of ``encoder`` that are modulated; never biases or norms.

    Args:
        encoder: it.
        scope: ``ndim>=2``: matrices and kernels; ``conv4d``: tensors of four dimensions alone.
    """
    for p in encoder.parameters():
        if p.requires_grad and (p.ndim == 4 if scope == "conv4d" else p.ndim >= 2):
            yield p


def scale_gradients(parameters: Iterable[nn.Parameter], factor: Tensor) -> None:
    """Multiply the gradients there are by the scalar ``factor``, in one go on a GPU."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        torch._foreach_mul_(grads, factor)


def take_gradients(module: nn.Module) -> list[Tensor | None]:
    """Return the gradient of every parameter of ``module``, and leave it without any."""
    taken = [p.grad for p in module.parameters()]
    module.zero_grad(set_to_none=True)
    return taken


def reached(
    module: nn.Module, first: Sequence[Tensor | None]
) -> Iterator[tuple[nn.Parameter, Tensor, Tensor]]:
    """Yield (p, gradient of p in ``first``, its present one) for every p that has either.

    A gradient that one loss lacks is zero.
    """
    for p, before in zip(module.parameters(), first, strict=True):
        if before is not None or p.grad is not None:
            g = torch.zeros_like(p) if before is None else before
            yield p, g, torch.zeros_like(p) if p.grad is None else p.grad
