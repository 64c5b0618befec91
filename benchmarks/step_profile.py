"""Where the time of a training step goes: the device's own time by kind of kernel.

    python benchmarks/step_profile.py --into docs/performance.md         # on a GPU
    python benchmarks/step_profile.py --device cpu --batch 2 --steps 1   # to see it run

CREMA-D's shapes, ResNet-18 encoders and batch 64 unless given, bf16 on a GPU; as written and with
``--compile``. torch's profiler adds up what every kernel takes (on the CPU: every operator),
without the gaps between them; the step as a whole, timed without the profiler, is beside it, and
on a GPU how long the processor takes to launch one, below which no step can get.
"""

import statistics
import tempfile
import time
from argparse import BooleanOptionalAction
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch.profiler import ProfilerActivity, profile

from mmbench.settings import RunSettings, TrainerSettings
from mmbench.testing.command_line import Page, add_shapes, how_many, parser, script, table
from mmbench.testing.speed import (
    CREMAD,
    LATE,
    audiovisual,
    make_trainer,
    random_loader,
    steps_seconds,
)
from mmbench.training.device import choose, synchronize
from mmbench.training.environment import conditions
from mmbench.training.trainer import Trainer

CLASSES, ROUNDS = 6, 5
# Kind -> what is in the names of its kernels (CUDA) or operators (CPU); the first that fits counts.
KINDS = {
    "layout changed": ("nchwToNhwc", "nhwcToNchw"),
    "fused by the compiler": ("triton_",),
    "first norm, ReLU and pool": ("norm_pool_",),
    "convolutions": ("conv", "Conv", "fprop", "dgrad", "wgrad", "implicit"),
    "batch norm": ("batch_norm", "bn_"),
    "pooling": ("pool",),
    "optimiser": ("multi_tensor", "fused_sgd", "FusedSgd"),
    "matrix products": ("gemm", "addmm", "::mm", "nvjet"),
    "copies and fills": ("copy", "Memcpy", "Memset", "fill", "Fill", "zero_"),
    "element by element": ("elementwise", "reduce", "aten::"),
}


def kind(name: str) -> str:
    """Return the kind of a kernel or operator."""
    return next((k for k, signs in KINDS.items() if any(s in name for s in signs)), "the rest")


def launching(trainer: Trainer) -> float:
    """Return the seconds in which the processor launches a step: it cannot get shorter."""
    batch = next(iter(trainer.loaders["train"].everything()))
    synchronize(trainer.device)
    begun = time.perf_counter()
    with trainer.autocast():
        trainer.method.step(batch)
    return time.perf_counter() - begun


def by_kind(trainer: Trainer) -> dict[str, tuple[float, int]]:
    """Return kind -> seconds and kernels of a step."""
    on_gpu = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as seen:
        steps_seconds(trainer, LATE)
    found: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for event in seen.key_averages():
        if (event.device_type.name == "CUDA") != on_gpu or event.is_user_annotation:
            continue
        micro = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds, count = found[kind(event.key)]
        found[kind(event.key)] = (seconds + micro / 1e6, count + event.count)
    steps = trainer.step_in_epoch
    return {k: (s / steps, n // steps) for k, (s, n) in found.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser(__doc__, "--device", "--into")
    arguments.add_argument("--method", default="concat", help="(default: %(default)s)")
    arguments.add_argument(
        "--batch", type=how_many, default=CREMAD[2], help="samples per step (default: %(default)s)"
    )
    add_shapes(arguments, CREMAD)
    arguments.add_argument(
        "--precision", choices=("fp32", "bf16"), help="(default: bf16 on a GPU, fp32 elsewhere)"
    )
    arguments.add_argument(
        "--compile", action=BooleanOptionalAction, default=True,
        help="profile compiled encoders too (default: yes)",
    )  # fmt: skip
    arguments.add_argument(
        "--steps", type=how_many, default=4,
        help="profiled, after as many to warm up (default: %(default)s)",
    )  # fmt: skip
    options = arguments.parse_args(argv)
    device = choose(options.device)
    page = Page(options.into, f"profile-{device.type}")
    precision: Literal["fp32", "bf16"] = "bf16" if device.type == "cuda" else "fp32"
    precision = options.precision or precision
    task = audiovisual(options.audio, options.visual, CLASSES)
    loader = random_loader(task, options.steps * options.batch, options.batch, device, "float16")
    settings = TrainerSettings(precision=precision, batch_size=options.batch)
    columns: dict[str, dict[str, tuple[float, int]]] = {}
    whole: dict[str, tuple[float, float]] = {}
    for name in ["eager", "compiled"][: 1 + options.compile]:
        run = RunSettings(compile=name == "compiled")
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(options.method, task, loader, settings, Path(folder), run)
            steps_seconds(trainer, LATE)
            times = [steps_seconds(trainer, LATE) / options.steps for _ in range(ROUNDS)]
            launches = [launching(trainer) for _ in range(ROUNDS)]
            whole[name] = statistics.median(times), statistics.median(launches)
            columns[name] = by_kind(trainer)
    order = sorted(
        {k for c in columns.values() for k in c}, key=lambda k: -columns["eager"].get(k, (0, 0))[0]
    )
    rows = [
        (k, *(part for c in columns.values() for part in _shown(*c.get(k, (0.0, 0)))))
        for k in order
    ]
    sums = [
        (sum(s for s, _ in c.values()), sum(n for _, n in c.values())) for c in columns.values()
    ]
    rows.append(("together", *(part for each in sums for part in _shown(*each))))
    shapes = " and ".join(" x ".join(map(str, s)) for s in (options.audio, options.visual))
    taken = ", ".join(
        f"{name} {1000 * seconds:.1f} ms"
        + (f" (launched in {1000 * host:.1f})" if device.type == "cuda" else "")
        for name, (seconds, host) in whole.items()
    )
    heads = {f"{name} {what}": "r" for name in columns for what in ("(ms)", "kernels")}
    text = (
        f"A step of `{options.method}` on ResNet-18 encoders, {shapes}, batch {options.batch}, "
        f"{precision}, takes {taken}\n(median of {ROUNDS} times {options.steps}). "
        f"{conditions(device)}.\n\n"
    ) + table({"kind": "l", **heads}, rows)
    page.show(text)


def _shown(seconds: float, count: int) -> tuple[str, str]:
    return f"{1000 * seconds:.2f}", str(count)


if __name__ == "__main__":
    script(main)
