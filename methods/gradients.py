"""What the methods share that edit the encoders' gradients. Not a method itself."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

Gradients = list[Tensor]  # one for each parameter


def in_scope(encoder: nn.Module, scope: str) -> Iterator[nn.Parameter]:
    """Yield the trainable parameters of ``encoder`` that are modulated; never biases or norms.

    Args:
        encoder: of one modality.
        scope: ``ndim>=2`` takes matrices and kernels, of two dimensions or more; ``conv4d`` takes
            tensors of four alone, the kernels of two-dimensional convolutions.
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
) -> tuple[list[nn.Parameter], Gradients, Gradients]:
    """Return the parameters that have a gradient, in ``first`` or now, with the one and the other.

    A gradient that one of the two losses lacks is zero.

    Args:
        module: whose gradients are those of the second loss.
        first: the gradients of the first loss, as ``take_gradients`` returned them.
    """
    parameters: list[nn.Parameter] = []
    one: Gradients = []
    other: Gradients = []
    for p, before in zip(module.parameters(), first, strict=True):
        if before is not None or p.grad is not None:
            parameters.append(p)
            one.append(torch.zeros_like(p) if before is None else before)
            other.append(torch.zeros_like(p) if p.grad is None else p.grad)
    return parameters, one, other


def give_gradients(parameters: Iterable[nn.Parameter], gradients: Gradients) -> None:
    """Make ``gradients`` those of ``parameters``, in the same order."""
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient
