"""Notice operations that would wait for a GPU, while running on a CPU."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS_A_VALUE = {
    aten._local_scalar_dense.default: "reading a tensor's value (item, float, int, bool, if)",
    aten.nonzero.default: "nonzero, or a mask as an index: the size depends on the values",
    aten.masked_select.default: "masked_select: the size depends on the values",
    aten._unique2.default: "unique: the size depends on the values",
    aten.unique_consecutive.default: "unique_consecutive: the size depends on the values",
    aten.equal.default: "torch.equal gives a Python value",
    aten.bincount.default: "bincount: the size depends on the values",
}
LEAVES_THE_DEVICE = {
    Tensor.tolist: "tolist",
    Tensor.numpy: "numpy",
    Tensor.cpu: "cpu",
}


class Waits(Exception):
    """An operation that would wait for the device."""


class _Values(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        func: Any,  # Any: an operator overload, which torch does not type
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in READS_A_VALUE:
            raise Waits(READS_A_VALUE[func])
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                raise Waits(READS_A_VALUE[aten.nonzero.default])
        return func(*args, **(kwargs or {}))


class _Copies(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # Any: whatever the function returns
        if func in LEAVES_THE_DEVICE:
            raise Waits(f"Tensor.{LEAVES_THE_DEVICE[func]}() copies to the CPU")
        return func(*args, **(kwargs or {}))


def call_without_waiting(function: Callable[..., Any], *args: Any) -> Any:  # Any: passed through
    """Call ``function``.

    Raises:
        Waits: if it does something for which a GPU would have to be waited for.
    """
    with _Values(), _Copies():  # type: ignore[no-untyped-call]  # torch's own constructor
        return function(*args)
