"""Notice operations that would wait for a GPU, while running on a CPU."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Stands for the device. Torch computes on it as on "cpu", but tells the two names apart, and so a
# copy that stays where the tensor is from one to the CPU.
DEVICE = torch.device("cpu", 0)

aten = torch.ops.aten
LINALG = "this linear algebra reads back whether it succeeded; use its _ex form if there is one"
READS_A_VALUE = {
    aten._local_scalar_dense.default: "reading a tensor's value (item, float, int, bool, if)",
    aten.nonzero.default: "nonzero, or a mask as an index: the size depends on the values",
    aten.masked_select.default: "masked_select: the size depends on the values",
    aten._unique2.default: "unique: the size depends on the values",
    aten.unique_dim.default: "unique: the size depends on the values",
    aten.unique_consecutive.default: "unique_consecutive: the size depends on the values",
    aten.repeat_interleave.Tensor: "repeat_interleave with a tensor of counts; give output_size",
    aten.equal.default: "torch.equal gives a Python value",
    aten.allclose.default: "torch.allclose gives a Python value",
    aten.bincount.default: "bincount: the size depends on the values",
    aten._linalg_check_errors.default: LINALG,
    aten._linalg_eigh.default: LINALG,
    aten._linalg_svd.default: LINALG,
}
LEAVES_THE_DEVICE = {
    Tensor.tolist: "tolist",
    Tensor.numpy: "numpy",
    Tensor.__array__: "__array__",
    Tensor.cpu: "cpu",
}
BUILDS = {torch.tensor, torch.as_tensor, torch.asarray}
COPIES = {Tensor.to, *BUILDS}
TESTS_VALUES_ON_A_CPU = {torch.quantile, torch.nanquantile}  # and, with the classes, one_hot
THE_DEVICE_OF = Tensor.device.__get__  # a descriptor of torch's


class Waits(Exception):
    """An operation that would wait for the device."""


Notice = Callable[[str], None]


class _Values(TorchDispatchMode):
    """Sees every operator that runs, those inside torch's own functions included."""

    def __init__(self, notice: Notice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own constructor
        self.notice = notice
        self.muted = False

    def __torch_dispatch__(
        self,
        func: Any,  # Any: an operator overload, which torch does not type
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        sized = func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None
        if func in READS_A_VALUE and not self.muted and not sized:
            self.notice(READS_A_VALUE[func])
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                self.notice(READS_A_VALUE[aten.nonzero.default])
        return func(*args, **kwargs)


class _Copies(TorchFunctionMode):
    """Sees what is called in Python; a copy from CPU to CPU runs no operator."""

    def __init__(self, notice: Notice, values: _Values) -> None:
        super().__init__()
        self.notice, self.values = notice, values

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # Any: whatever the function returns
        kwargs = kwargs or {}
        if func == THE_DEVICE_OF:  # a new wrapper at every access
            return DEVICE if func(*args).type == "cpu" else func(*args)
        if func in LEAVES_THE_DEVICE:
            self.notice(f"Tensor.{LEAVES_THE_DEVICE[func]}() copies to the CPU")
        elif func in COPIES and args and isinstance(args[0], Tensor) and _to_the_cpu(args, kwargs):
            self.notice("a copy to the CPU; self.fit.device is where tensors belong")
        elif func in BUILDS and args and _holds_tensors(args[0]):
            self.notice("a tensor made of a list of tensors reads each; use torch.stack")
        elif func in BUILDS and kwargs.get("device") == DEVICE and not isinstance(args[0], Tensor):
            self.notice("numbers of Python's are copied to the device; use torch.full, or build()")
        elif func is Tensor.__setitem__ and _sets_one_number(*args):
            self.notice("a number of Python's is copied into one of a tensor; use fill_")
        # These look at values on a CPU only, where it costs nothing.
        known = func is torch.nn.functional.one_hot and _classes(args, kwargs) >= 0
        before = self.values.muted
        self.values.muted = before or known or func in TESTS_VALUES_ON_A_CPU
        try:
            return func(*args, **kwargs)
        finally:
            self.values.muted = before


def _to_the_cpu(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:  # Any: of any torch function
    return any(a in ("cpu", torch.device("cpu")) for a in (*args[1:], *kwargs.values())
               if isinstance(a, str | torch.device))  # fmt: skip


def _sets_one_number(tensor: Tensor, index: Any, value: Any) -> bool:  # Any: whatever [] takes
    """Say whether an assignment copies a number from the CPU: to more than one it is filled in."""
    if isinstance(value, Tensor) or not isinstance(value, int | float):
        return False
    places = index if isinstance(index, tuple) else (index,)
    return len(places) == tensor.ndim and all(isinstance(place, int) for place in places)


def _holds_tensors(value: Any) -> bool:  # Any: what torch.tensor takes
    return isinstance(value, list | tuple) and any(
        isinstance(v, Tensor) or _holds_tensors(v) for v in value
    )


def _classes(args: Sequence[Any], kwargs: dict[str, Any]) -> int:  # Any: as above
    return int(args[1] if len(args) > 1 else kwargs.get("num_classes", -1))


def _place() -> tuple[Path, str]:
    """Return the file, and ``file:line``, that called torch."""
    torch_folder = Path(torch.__file__).parent
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = Path(frame.f_code.co_filename)
        if file != Path(__file__) and torch_folder not in file.parents:
            break
        frame = frame.f_back
    return Path(frame.f_code.co_filename), f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _watched(notice: Notice, function: Callable[..., Any], args: Sequence[Any]) -> Any:
    values = _Values(notice)
    with values, _Copies(notice, values):
        return function(*args)


def call_without_waiting(function: Callable[..., Any], *args: Any) -> Any:  # Any: passed through
    """Call ``function``.

    Raises:
        Waits: if it does something for which a GPU would have to be waited for; says where.
    """

    def notice(what: str) -> None:
        raise Waits(f"{_place()[1]}: {what}")

    return _watched(notice, function, args)


def count_waits(
    function: Callable[..., Any], *args: Any, but_in: Sequence[Path] = ()
) -> tuple[Any, list[str]]:  # Any: passed through
    """Call ``function``; return what it returns and each wait, with its place.

    Args:
        function: what to call.
        args: of ``function``.
        but_in: folders of code whose own waits do not count.
    """
    waits: list[str] = []

    def notice(what: str) -> None:
        file, place = _place()
        if not any(folder in file.parents for folder in but_in):
            waits.append(f"{place}: {what}")

    return _watched(notice, function, args), waits
