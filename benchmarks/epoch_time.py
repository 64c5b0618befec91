"""An epoch at CREMA-D's size and shapes: seconds, share of the arithmetic peak, and no waiting.

    python benchmarks/epoch_time.py --methods concat,iprm                # on a GPU
    python benchmarks/epoch_time.py --device cpu --samples 8 --batch 4   # to see it run

6,698 samples, a spectrogram of 257 x 1250 and two frames of 224 x 224, ResNet-18 encoders, batch
64, bf16 on a GPU; random data, stored in half precision, resident on the device, where the frames
are augmented as a run of cremad augments them by default. Epochs of the methods take turns.
On a GPU an epoch of each runs with torch's sync-debug mode set to error: a method fails whose step,
or the making of its batch, waits for the device. One that fails is told and left out, and the exit
code is 1. The peak is that of a measured matrix product in the same precision. A method's floor is
what the operations of its own epochs, counted, would take at that peak; what only moves memory, as
augmentation does, is not in it. Ratios are to the first method of the table.
What evaluating the same samples takes is told beside: an epoch ends with the selecting split.
``--methods all`` is the study's table of cost at these shapes.
"""

import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch

from mmbench.errors import MMBenchError
from mmbench.registry import DATASETS
from mmbench.settings import RunSettings, TrainerSettings
from mmbench.testing.command_line import (
    Page,
    add_shapes,
    how_many,
    method_names,
    parser,
    script,
    table,
)
from mmbench.testing.speed import (
    CREMAD,
    CREMAD_SAMPLES,
    LATE,
    audiovisual,
    in_turn,
    make_trainer,
    random_loader,
    step_flops,
    steps_seconds,
)
from mmbench.training.device import choose, peak_memory, reset_peak, synchronize
from mmbench.training.environment import conditions
from mmbench.training.evaluation import evaluate
from mmbench.training.trainer import Trainer

CLASSES = 6
FORMATS = get_args(RunSettings.model_fields["memory_format"].annotation)


def augmentations() -> dict[str, str]:
    """Return what a run of cremad does to its training batches by default, by our names."""
    ours = {"audio": "audio", "video": "visual"}
    cls = DATASETS.load("cremad")
    return {ours[m]: name for m, name in cls(cls.Config()).augmentations().items()}


def peak_flops(device: torch.device, precision: str) -> float:
    """Return the operations per second of a matrix product: the best of ten."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronize(device)
        begun = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def _evaluation_seconds(trainer: Trainer) -> float:
    """Return how long metrics of the training samples take, once it has been done before."""
    for _ in range(2):
        begun = time.perf_counter()  # evaluate waits for the device by itself
        evaluate(trainer.method, trainer.loaders["train"], "in the benchmark")
    return time.perf_counter() - begun


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios, epoch by epoch."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@contextmanager
def _or_left_out(name: str, failed: set[str]) -> Iterator[None]:
    """Tell a failure of the method ``name``; the others are measured all the same."""
    try:
        yield
    except Exception as err:  # of any kind, from the device or from the method
        print(f"left out: {name}: {type(err).__name__}: {err}", file=sys.stderr)
        failed.add(name)


def arguments(argv: Sequence[str] | None) -> Namespace:
    """Read the command line."""
    made = parser(__doc__, "--device", "--into")
    made.add_argument(
        "--methods", default="concat,iprm",
        help="comma-separated, the reference first; or all (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--samples",
        type=how_many,
        default=CREMAD_SAMPLES,
        help="of an epoch (default: %(default)s)",
    )
    made.add_argument(
        "--batch", type=how_many, default=CREMAD[2], help="samples per step (default: %(default)s)"
    )
    add_shapes(made, CREMAD)
    made.add_argument(
        "--precision", choices=("fp32", "bf16"), help="(default: bf16 on a GPU, fp32 elsewhere)"
    )
    made.add_argument(
        "--memory-format", choices=FORMATS, default="auto", help="(default: %(default)s)"
    )
    made.add_argument("--compile", action="store_true", help="compile encoders (default: no)")
    made.add_argument(
        "--epochs",
        type=how_many,
        default=4,
        help="counted; two more warm up (default: %(default)s)",
    )
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    options = arguments(argv)
    device = choose(options.device)
    place = device.type + ("_compiled" if options.compile else "")
    page = Page(options.into, f"epoch-{place}")
    precision: Literal["fp32", "bf16"] = "bf16" if device.type == "cuda" else "fp32"
    precision = options.precision or precision
    run = RunSettings(memory_format=options.memory_format, compile=options.compile)
    names = method_names(options.methods)
    if options.methods == "all":
        names = ["concat", *(n for n in names if n != "concat")]
    task = audiovisual(options.audio, options.visual, CLASSES)
    changes = augmentations()
    loader = random_loader(task, options.samples, options.batch, device, "float16", changes)
    settings = TrainerSettings(precision=precision, batch_size=options.batch)
    peak = peak_flops(device, precision)
    trainers: dict[str, Trainer] = {}
    floors: dict[str, list[float]] = {}
    failed: set[str] = set()
    epochs = range(LATE + 1, LATE + 1 + options.epochs)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            with _or_left_out(name, failed):
                trainer = make_trainer(name, task, loader, settings, Path(folder) / name, run)
                steps_seconds(trainer, LATE)  # kernels are chosen and compiled here
                steps_seconds(trainer, LATE, may_wait=False)
                trainers[name] = trainer
                flops = step_flops(name, task, settings, epochs)
                floors[name] = [n * options.samples / options.batch / peak for n in flops]
        reset_peak(device)
        seconds: dict[str, list[float]] = {n: [] for n in names}
        for epoch in epochs:
            for name in in_turn(names, epoch):
                if name not in failed:
                    with _or_left_out(name, failed):
                        seconds[name].append(steps_seconds(trainers[name], epoch))
        left = [name for name in names if name not in failed]
        if not left:
            raise MMBenchError("there is nothing to show: every method failed")
        memory = peak_memory(device).peak_bytes / 2**30
        judged = _evaluation_seconds(trainers[left[0]])
    reference = seconds[left[0]]
    rows = [
        (
            name, f"{statistics.median(taken):.2f}", f"{min(taken):.2f} to {max(taken):.2f}",
            f"{options.samples / statistics.median(taken):.0f}",
            f"{100 * _ratio(floors[name], taken):.0f} %", f"{_ratio(taken, reference):.3f}",
        )
        for name, taken in ((name, seconds[name]) for name in left)
    ]  # fmt: skip
    where = "resident on the device" if loader.resident else "read from the memory map"
    said = ", ".join(f"{m}: {name}" for m, name in changes.items())
    floor = statistics.median(floors[left[0]])
    text = (
        f"{options.samples} samples, batch {options.batch}, {precision}, "
        f"{' x '.join(map(str, options.audio))} and {' x '.join(map(str, options.visual))},\n"
        f"ResNet-18 encoders{', compiled' if options.compile else ''}, data {where}, "
        f"augmented as by a run of `cremad` ({said}); {options.epochs} epochs in turns. "
        f"{conditions(device)}.\n"
        f"Own floor: what the operations of the method's own epoch, counted, take at the "
        f"{peak / 1e12:.1f} Tflop/s measured of a matrix product;\nof `{left[0]}` "
        f"{floor * peak / 1e12:.1f} Tflop, {floor:.2f} s.\n"
        f"Peak memory of training {memory:.1f} GiB. Evaluating as many samples takes "
        f"{judged:.2f} s.\n\n"
    ) + table(
        {
            "method": "l",
            "s/epoch": "r",
            "range": "c",
            "samples/s": "r",
            "own floor over time": "r",
            "ratio": "r",
        },
        rows,
    )
    page.show(text)
    return 1 if failed else 0


if __name__ == "__main__":
    script(main)
