"""How a method lies in memory, and what of it is compiled: settings of a run, not of a cell."""

from collections.abc import Iterator
from types import MethodType

import torch
from torch import Tensor

from mmbench.method import Method
from mmbench.nets.resnet import Residual
from mmbench.settings import RunSettings
from mmbench.training.device import memory_format

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of dimensions
RECOMPILES = 512  # sizes and modes of inputs for which a worker compiles an encoder's code


def _laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Return ``x`` so that a convolution with it gives ``layout``.

    What has one channel is both contiguous and channels_last, and a GPU takes it for the first.
    """
    x = x.contiguous(memory_format=layout)
    if x.shape[1] > 1 or not x.is_cuda:
        return x
    strides = (x.stride(0), 1, *x.stride()[2:])
    return x.as_strided(x.shape, strides)


def _residual(method: Method) -> Iterator[Residual]:
    return (module for module in method.modules() if isinstance(module, Residual))


def kernels(method: Method) -> bool:
    """Say whether first layers run in kernels of ours, as ``arrange`` has it on a GPU."""
    return any(net.kernels for net in _residual(method))


def arrange(method: Method, device: torch.device, run: RunSettings) -> None:
    """Lay out and compile a method as ``run`` asks; the results differ by rounding only."""
    if memory_format(device, run.memory_format) == "channels_last":
        for each in (*method.parameters(), *method.buffers()):
            if layout := CHANNELS_LAST.get(each.ndim):
                each.data = _laid_out(each.data, layout)
        for net in _residual(method) if device.type == "cuda" else ():
            net.quicken(device)
    if run.compile:
        # One function serves every modality, batch size and mode; past torch's own limit of 8 kinds
        # it would go on uncompiled and say nothing. Each is compiled for its own sizes: with free
        # ones torch 2.11 fails at the second of two ResNets, on the CPU.
        torch._dynamo.config.recompile_limit = RECOMPILES
        torch._dynamo.config.accumulated_recompile_limit = RECOMPILES
        # A method may go backward twice through what another's cell compiled.
        torch._functorch.config.donated_buffer = False
        for encoder in method.encoders.values():
            encoder.compile(dynamic=False)
        for name in method.compiles:
            compiled = torch.compile(getattr(type(method), name), dynamic=False)
            vars(method)[name] = MethodType(compiled, method)
