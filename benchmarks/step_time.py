"""Time of a training step of every method relative to ``concat``, interleaved in one process.

    python benchmarks/step_time.py --methods concat,iprm --json
    python benchmarks/step_time.py --batch 8,64 --into docs/performance.md

Every method gets the same ResNet-18 encoders and the same random batches, and takes its steps
through the shared trainer. A round gives each method one turn of as many steps as its phases may
need (two per modality); the order rotates from round to round, and a method's ratio is taken
within a round, so that a machine that slows down slows all of them. The median over rounds is
printed, with the quartiles. Work between epochs (PMR's prototypes, OGR-GB's estimate) is not in it.

On a GPU the shapes are CREMA-D's (257 x 1250 spectrogram, two frames of 224 x 224, batch 64); on
the CPU they are smaller unless given, because the ratio is what counts.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mmbench.errors import MMBenchError
from mmbench.method import Batch
from mmbench.registry import METHODS
from mmbench.settings import TrainerSettings
from mmbench.testing.speed import audiovisual, make_trainer, random_loader, show, sizes, table
from mmbench.training.device import choose, synchronize
from mmbench.training.environment import conditions
from mmbench.training.trainer import Trainer

BASELINE, CLASSES, TURN = "concat", 6, 4
# device -> audio [C, H, W], visual [C, K, H, W], samples per step
CREMAD = ((1, 257, 1250), (3, 2, 224, 224), 64)
SMALL = ((1, 65, 128), (3, 2, 64, 64), 8)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default="all", help="comma-separated, or all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=2, help="rounds that are not counted")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="torch threads; default: as torch chooses")
    parser.add_argument("--batch", type=sizes, help="samples per step; 8,64: each in its turn")
    parser.add_argument("--audio", type=sizes, help="C,H,W of the spectrogram")
    parser.add_argument("--visual", type=sizes, help="C,K,H,W of the frames")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", action="store_true", help="print {method: median ratio}")
    parser.add_argument("--into", type=Path, help="put the table between the markers there")
    return parser.parse_args(argv)


def turn(trainer: Trainer, batches: Sequence[Batch]) -> float:
    """Take one step in each of ``TURN`` epochs; return the seconds of the steps.

    The epochs are late enough that a method which adds modalities one by one has all of them.
    """
    seconds = 0.0
    for offset in range(TURN):
        trainer.epoch, trainer.step_in_epoch = TURN + offset, 0
        trainer.method.on_epoch_start()
        batch = batches[offset % len(batches)]
        synchronize(trainer.device)
        started = time.perf_counter()
        precision = trainer.settings.precision
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logged = trainer.method.step(batch)
        trainer.meter.add(logged)
        trainer.step += 1
        synchronize(trainer.device)
        seconds += time.perf_counter() - started
    return seconds


def measure(
    trainers: Mapping[str, Trainer], batches: Sequence[Batch], rounds: int, warmup: int
) -> dict[str, list[float]]:
    """Return the seconds of every method's turn in every counted round."""
    names = list(trainers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            taken = turn(trainers[name], batches)
            if number >= warmup:
                seconds[name].append(taken)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float, float]]:
    """Return quartile, median, quartile of each method's time over the baseline's, per round."""
    rows = {}
    for name, taken in seconds.items():
        each = [t / base for t, base in zip(taken, seconds[BASELINE], strict=True)]
        low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
        rows[name] = (low, middle, high)
    return rows


Rows = Mapping[str, tuple[float, float, float]]


def markdown(
    measured: Mapping[int, tuple[Rows, float]], names: Sequence[str], about: Mapping[str, object]
) -> str:
    """Return the table with its conditions.

    Args:
        measured: by batch size, the rows of `ratios` and the seconds of a step of the baseline.
        names: the methods measured.
        about: conditions that hold for all sizes.
    """
    steps = "; ".join(f"batch {n}: {1000 * s:.0f} ms" for n, (_, s) in measured.items())
    columns = {"method": "l"}
    for n in measured:
        columns |= {f"batch {n}": "r", f"quartiles of {n}": "c"}
    rows = []
    largest = measured[max(measured)][0]
    for name in sorted(names, key=lambda name: largest[name][1]):
        cells = [each[name] for each, _ in measured.values()]
        shown = [(f"{m:.3f}", f"{low:.3f} to {high:.3f}") for low, m, high in cells]
        rows.append((name, *(text for pair in shown for text in pair)))
    return (
        f"Time of a training step relative to `{BASELINE}`: median and quartiles over "
        f"{about['rounds']} rounds, all methods\ninterleaved in one process, ResNet-18 encoders, "
        f"{about['precision']}, default options. {about['conditions']}.\n"
        f"Audio {about['audio']}, visual {about['visual']}; one step of `{BASELINE}`: {steps}.\n\n"
        + table(columns, rows)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = arguments(argv)
    device = choose(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    default_audio, default_visual, default_batch = CREMAD if device.type == "cuda" else SMALL
    audio, visual = options.audio or default_audio, options.visual or default_visual
    wanted = METHODS.names() if options.methods == "all" else options.methods.split(",")
    names = [BASELINE, *(n for n in wanted if n != BASELINE)]
    task = audiovisual(audio, visual, CLASSES)
    measured: dict[int, tuple[Rows, float]] = {}
    for batch in options.batch or (default_batch,):
        loader = random_loader(task, TURN * batch, batch, device)
        batches = list(loader.everything())
        settings = TrainerSettings(precision=options.precision, batch_size=batch)
        with tempfile.TemporaryDirectory() as folder:
            trainers = {n: make_trainer(n, task, loader, settings, Path(folder) / n) for n in names}
            seconds = measure(trainers, batches, options.rounds, options.warmup)
        measured[batch] = ratios(seconds), statistics.median(seconds[BASELINE]) / TURN
    if options.json:
        medians = {
            batch: {name: round(middle, 4) for name, (_, middle, _) in rows.items()}
            for batch, (rows, _) in measured.items()
        }
        print(json.dumps(medians if len(medians) > 1 else next(iter(medians.values()))))
        return
    text = markdown(
        measured,
        names,
        {
            "rounds": options.rounds, "precision": options.precision,
            "conditions": conditions(device),
            "audio": " x ".join(map(str, audio)), "visual": " x ".join(map(str, visual)),
        },
    )  # fmt: skip
    show(text, options.into, "step-time")


if __name__ == "__main__":
    try:
        main()
    except MMBenchError as err:
        sys.exit(f"error: {err}")
