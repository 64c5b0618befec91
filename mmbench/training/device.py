"""Which device to train on, what it is called, and how much memory was used."""

import gc
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from mmbench.errors import UserError
from mmbench.record import Memory

CPUINFO = Path("/proc/cpuinfo")


def choose(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: if the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise UserError(f"unknown device {name!r}; use auto, cpu, mps, cuda or cuda:N") from err
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device {name!r} is not there: torch sees {count} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not there; use cpu")
    return device


def begin(device: torch.device) -> None:
    """Load what a GPU needs before its first product: seconds, which no cell is to pay."""
    if device.type == "cuda":
        image = torch.ones(1, 1, 8, 8, device=device)
        torch.nn.functional.conv2d(image, image).flatten(1) @ image.flatten(1)[:, :1]
        torch.cuda.synchronize(device)


def allow_tf32(precision: str) -> None:
    """Let products of float32 on a GPU round their factors to TF32, where ``precision`` asks.

    ``tf32`` asks for all products. With ``bf16`` only convolutions do so, which are those of
    evaluation: three more bits than they had in training, on tensor cores, while the matrix
    products of losses and weights stay exact. Otherwise none: torch's own default lets convolutions
    round, matrix products not, and says neither.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision in ("tf32", "bf16")


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free; what this process holds on a GPU and no longer needs is."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def describe(device: torch.device) -> str:
    """Return the name of the hardware behind ``device``.

    A processor's has its family and model: a marketing name may stand for several generations,
    which differ in speed and in the last digits of results.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and (name := _processor()):
        return name
    return platform.processor() or platform.machine()


def bf16_instructions(cpuinfo: Path = CPUINFO) -> str:
    """Return what the processor calls its instructions for bf16; empty where Linux lists none."""
    said = _first_processor(cpuinfo)
    listed = f"{said.get('flags', '')} {said.get('Features', '')}".split()  # x86, ARM
    return ", ".join(sorted(name for name in listed if "bf16" in name))


def _processor(cpuinfo: Path = CPUINFO) -> str:
    """Return the first processor that Linux lists; empty where it does not."""
    said = _first_processor(cpuinfo)
    finer = [f"{key.split()[-1]} {said[key]}" for key in ("cpu family", "model") if key in said]
    name = said.get("model name", "")
    return f"{name} ({', '.join(finer)})" if name and finer else name


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    if not cpuinfo.exists():
        return {}
    first = cpuinfo.read_text().partition("\n\n")[0]
    return {k.strip(): v.strip() for k, _, v in (s.partition(":") for s in first.splitlines())}


def memory_format(device: torch.device, wanted: str) -> str:
    """Return ``contiguous`` or ``channels_last`` for ``wanted``, which may be ``auto``.

    Convolutions on a GPU's tensor cores work on channels_last; on a CPU it brings nothing
    (docs/performance.md).
    """
    if wanted != "auto":
        return wanted
    return "channels_last" if device.type == "cuda" else "contiguous"


def synchronize(device: torch.device) -> None:
    """Wait for the device; used around timings and at epoch ends only."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> Memory:
    """Return the CUDA allocator's peak, or the peak resident set of this process."""
    if device.type == "cuda":
        return Memory(peak_bytes=torch.cuda.max_memory_allocated(device), kind="cuda")
    return Memory(peak_bytes=_peak_resident(), kind="resident")


def reset_peak(device: torch.device) -> None:
    """Let ``peak_memory`` count from now on, where the system can: on CUDA and on Linux."""
    if device.type == "cuda":
        torch.cuda.init()  # torch does not, of a device with a number
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _peak_resident() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def finest(device: torch.device) -> torch.dtype:
    """Return the finest floating type that sums and metrics can have there; MPS has no double."""
    return torch.float32 if device.type == "mps" else torch.float64
