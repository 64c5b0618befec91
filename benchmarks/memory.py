"""Peak memory of a training step per method and batch size, each method in a process of its own.

    python benchmarks/memory.py --batch 8,32
    python benchmarks/memory.py --device cuda --batch 16,64 --into docs/performance.md

On a GPU: the allocator's peak while stepping. On the CPU: how far the resident memory of the
process rises above what it was with weights, optimiser and data in place; as many processes at once
as there are cores. Shapes and encoders as in ``step_time.py``.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import torch

from mmbench.errors import MMBenchError
from mmbench.method import Batch
from mmbench.settings import TrainerSettings
from mmbench.testing.command_line import (
    Page,
    add_shapes,
    counts,
    how_many,
    method_names,
    parser,
    script,
    table,
)
from mmbench.testing.speed import (
    CREMAD,
    LATE,
    SMALL,
    audiovisual,
    make_trainer,
    random_loader,
)
from mmbench.training.device import choose, peak_memory, reset_peak
from mmbench.training.environment import conditions
from mmbench.training.trainer import Trainer

CLASSES, EPOCHS, MIB = 6, 4, 2**20


def step_peak(
    method: str, audio: tuple[int, ...], visual: tuple[int, ...], batch: int, device: torch.device
) -> int:
    """Return the bytes that a step takes at most, over the weights, optimiser and data."""
    gc.collect()  # a trainer and its method hold each other: those of the batch size before
    loader = random_loader(audiovisual(audio, visual, CLASSES), batch, batch, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            method, audiovisual(audio, visual, CLASSES), loader,
            TrainerSettings(batch_size=batch), Path(folder),
        )  # fmt: skip
        steps(trainer, next(loader.in_order(torch.arange(2))))  # the optimiser makes its state
        (data,) = loader.everything()
        before = psutil.Process().memory_info().rss
        reset_peak(device)
        if device.type == "cuda":
            before = torch.cuda.memory_allocated(device)
        steps(trainer, data)
        return int(peak_memory(device).peak_bytes - before)


def steps(trainer: Trainer, data: Batch) -> None:
    """Take a step in each of some late epochs: some methods add modalities one by one."""
    for epoch in range(LATE, LATE + EPOCHS):
        trainer.epoch, trainer.step_in_epoch = epoch, 0
        trainer.method.on_epoch_start()
        trainer.method.step(data)
        trainer.step += 1


def in_a_process(method: str, options: argparse.Namespace) -> list[int]:
    """Return `step_peak` for every batch size, from a fresh process, whose peak is its own."""
    batches = ",".join(map(str, options.batch))
    command = [sys.executable, "-P", __file__, "--one", method, "--batch", batches]
    command += ["--device", options.device, "--threads", str(options.threads)]
    for name in ("audio", "visual"):
        if getattr(options, name):
            command += [f"--{name}", ",".join(map(str, getattr(options, name)))]
    # The system's allocator otherwise keeps what was freed, which would count as used.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise MMBenchError(f"{method}: {said[-1]}")
    return [int(peak) for peak in json.loads(done.stdout.splitlines()[-1])]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser(__doc__, "--device", "--into")
    arguments.add_argument(
        "--methods", default="all", help="comma-separated, or all (default: %(default)s)"
    )
    arguments.add_argument(
        "--batch", type=counts, default="8,32", help="samples per step (default: %(default)s)"
    )
    arguments.add_argument(
        "--threads", type=how_many, default=1, help="of torch, per process (default: %(default)s)"
    )
    add_shapes(arguments, CREMAD, SMALL)
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    options = arguments.parse_args(argv)
    device = choose(options.device)
    page = Page(options.into, f"memory-{device.type}")
    names = method_names(options.methods)
    torch.set_num_threads(options.threads)
    default = CREMAD if device.type == "cuda" else SMALL
    audio, visual = options.audio or default[0], options.visual or default[1]
    if options.one:
        peaks = [step_peak(options.one, audio, visual, n, device) for n in sorted(options.batch)]
        print(json.dumps(peaks))
        return
    at_once = (os.cpu_count() or 1) if device.type == "cpu" else 1
    with ThreadPoolExecutor(at_once) as pool:
        found = dict(
            zip(names, pool.map(partial(in_a_process, options=options), names), strict=True)
        )
    columns = {"method": "l"} | {f"batch {batch} (MiB)": "r" for batch in sorted(options.batch)}
    rows = [
        (name, *(f"{peak / MIB:.0f}" for peak in peaks))
        for name, peaks in sorted(found.items(), key=lambda item: item[1][-1])
    ]
    shapes = " and ".join(" x ".join(map(str, shape)) for shape in (audio, visual))
    text = (
        f"Memory that training steps take at most, above weights, optimiser and data: ResNet-18 "
        f"encoders,\n{shapes}, fp32, each method in a process of its own. {conditions(device)}.\n\n"
    ) + table(columns, rows)
    page.show(text)


if __name__ == "__main__":
    script(main)
