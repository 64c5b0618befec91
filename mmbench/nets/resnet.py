"""torchvision's ResNets without classifier, whose first layers, the largest, are quick on a GPU."""

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

ALIGNED = 8  # channels that tensor cores take at once

log = logging.getLogger(__name__)


class Residual(ResNet):  # type: ignore[misc]  # torchvision has no type information
    """A ResNet without its classifier; names of weights and random draws are torchvision's.

    Args:
        block: of its layers.
        layers: blocks in each of the four.
    """

    def __init__(self, block: type[BasicBlock | Bottleneck], layers: Sequence[int]) -> None:
        super().__init__(block, list(layers))
        self.fc = nn.Identity()
        self.columns = self.kernels = False

    def quicken(self, device: torch.device) -> None:
        """Use the first layers that are quick on ``device``, a GPU, with channels_last."""
        self.columns, self.kernels = True, kernels_work(device)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = by_columns(self.conv1, x) if self.columns else self.conv1(x)
        if self.kernels and _at_once(x, self.bn1):
            from mmbench.nets.norm_pool import norm_relu_pool  # needs Triton

            x = norm_relu_pool(x, self.bn1)
        else:
            x = self.maxpool(self.relu(self.bn1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        out: Tensor = self.avgpool(x).flatten(1)
        return out


@cache
def kernels_work(device: torch.device) -> bool:
    """Say whether the kernels of `norm_pool` can be built and run there; tells why if not.

    Triton builds with a C compiler and Python's headers, which not every node has.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    from mmbench.nets.norm_pool import norm_relu_pool

    try:
        x = torch.ones(1, 8, 4, 4, device=device, requires_grad=True)
        norm_relu_pool(x, nn.BatchNorm2d(8, device=device)).sum().backward()
        torch.cuda.synchronize(device)
    except Exception as err:  # whatever a compiler that is not there may raise
        log.warning("ResNets go on with torch's own layers, which are slower: Triton: %s", err)
        return False
    return True


def by_columns(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve with the columns of the kernel as channels, where there are few of these.

    Tensor cores work on multiples of 8 channels, so that of a spectrogram's one they waste seven
    eighths. The sums are those of ``conv``, in another order.

    Args:
        conv: with a kernel of more than one column, one group and no dilation.
        x: [B, C, H, W]; read as [B, C * columns, H, W'] by a kernel of one column.

    Returns:
        [B, O, H', W'] in channels_last.
    """
    outputs, channels, rows, kernel = conv.weight.shape
    (down, along), (above, beside) = conv.stride, conv.padding  # type: ignore[str-unpack]
    if x.shape[3] + 2 * int(beside) < kernel:
        out: Tensor = conv(x)  # which says that it is too small
        return out
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    columns = kernel
    while channels * columns % ALIGNED:
        columns += 1
    count = (x.shape[3] + 2 * int(beside) - kernel) // along + 1
    x = F.pad(x, (int(beside), (count - 1) * along + columns - x.shape[3] - int(beside)))
    windows = x.unfold(3, columns, along)  # [B, C, H, W', columns]
    folded = windows.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)
    # Of one channel a view whose windows overlap: a convolution would copy it in either direction.
    folded = folded.contiguous(memory_format=torch.channels_last)
    weight = F.pad(conv.weight, (0, columns - kernel)).transpose(2, 3)
    weight = weight.reshape(outputs, -1, rows, 1).contiguous(memory_format=torch.channels_last)
    return F.conv2d(folded, weight, conv.bias, (down, 1), (int(above), 0))


def _at_once(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Say whether `norm_pool` is for this tensor and norm."""
    return (
        norm.training
        and "forward" not in vars(norm)  # which the processes of one cell replace
        and x.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and x.numel() > x.shape[1]  # or the norm raises an error
    )
