"""What the whole study costs: arithmetic counted per dataset, and hours at a given speed.

    python benchmarks/study_hours.py --tflops 800 --share 0.4 --into docs/performance.md
    python benchmarks/study_hours.py --tflops 800 --set cremad.audio=stft20s

Counts the floating-point operations of a training step of ``concat`` on one sample of every
dataset that is read from files, with its default options, or those of ``--set``, and its encoders,
and without data or weights (torch's ``meta`` device). What the other methods cost is their own
count over that of ``concat``, for as many small inputs as the dataset has modalities, with what
one does before its first step (OGR-GB's estimate) and passes beyond the epochs asked for
(ReconBoost's), or, with ``--ratios``, what ``step_time.py --json`` measured of steps alone, on two
modalities. Methods, seeds and epochs as in the study.
``--tflops`` is the measured matrix product of the device and ``--share`` the share of it that
training reaches; both come from ``epoch_time.py``. The default share of 1 gives the floor, which no
machine reaches. Evaluation, decoding and idle time are not in it.
"""

import json
import math
import re
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmbench.cli.output import pairs
from mmbench.dataset import Modality, Task
from mmbench.errors import UserError, nearest
from mmbench.native.dataset import NativeDataset
from mmbench.nets.encoders import encoder_names
from mmbench.registry import DATASETS, METHODS
from mmbench.settings import TrainerSettings, parse_value, validate
from mmbench.testing.command_line import Page, how_many, parser, positive, script, share, table
from mmbench.testing.speed import make_trainer, operations, random_loader, sample_flops

PFLOP, DAY = 1e15, 24
BATCH = 8
PHASES = 2  # of each modality, in a method that goes through them in turn
SHORT = 8  # epochs of the run whose beginning is counted


def small_task(modalities: int) -> Task:
    """Return a task of that many small inputs of one size."""
    inputs = [Modality(f"input{n}", "spectrogram", (1, 33, 33)) for n in range(modalities)]
    return Task(tuple(inputs), tuple("abcdef"))


def single() -> list[str]:
    """Return the methods but those that take one cell for each modality, as ``unimodal``.

    Such a method costs one ``concat`` in all.
    """
    return [n for n in METHODS.names() if len(METHODS.load(n).variants(small_task(2))) == 1]


def counted(methods: Sequence[str], modalities: int, epochs: int) -> dict[str, float]:
    """Return the operations of a run of each of ``methods`` over those of one of ``concat``."""
    task = small_task(modalities)
    loader = random_loader(task, BATCH * 2 * PHASES * modalities, BATCH, torch.device("cpu"))
    batches = list(loader.everything())
    settings = TrainerSettings(epochs=SHORT, batch_size=BATCH)
    found: dict[str, float] = {}
    for name in methods:
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(name, task, loader, settings, Path(folder))
            found[name] = sum(operations(trainer, batches)) * trainer.method.passes(epochs) / epochs
            trainer.epoch = 0
            with FlopCounterMode(display=False) as counter:
                trainer.method.on_fit_start()
            found[name] += counter.get_total_flops() / SHORT
    return {name: count / found["concat"] for name, count in found.items()}


def training_samples(counts: str) -> int:
    """Read the number of training samples out of a dataset's ``counts``."""
    found = re.search(r"train (\d+)|: (\d+) /", counts)
    if found is None:
        raise UserError(f"no number of training samples in {counts!r}")
    return int(found[1] or found[2])


def measured(file: Path) -> dict[str, float]:
    """Return the ratios that ``step_time.py --json`` printed, for every method.

    One of the methods with a cell for each modality need not be there: they count as one.

    Raises:
        UserError: if the file cannot be read, or its methods or numbers are not ours.
    """
    wants = f"{file} should hold what step_time.py --methods all --json prints"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as err:
        raise UserError(f"cannot read {file}: {err.strerror}") from err
    except ValueError as err:
        raise UserError(f"{wants}; it is not JSON: {err}") from err
    if not isinstance(found, dict):
        raise UserError(f"{wants}; it holds no names")
    names = METHODS.names()
    for name, ratio in found.items():
        if name not in names:
            raise UserError(f"unknown method {name!r} in {file}{nearest(name, names)}")
        if not isinstance(ratio, int | float) or not 0 < ratio < float("inf"):
            raise UserError(f"{wants}; the ratio of {name!r} is {ratio!r}, not a number above 0")
    if missing := [name for name in single() if name not in found]:
        raise UserError(f"{wants}; it has no ratio of {', '.join(missing)}")
    return {name: found[name] for name in single()}


def arguments(argv: Sequence[str] | None) -> Namespace:
    """Read the command line."""
    made = parser(__doc__, "--into")
    made.add_argument("--seeds", type=how_many, default=3, help="how many (default: %(default)s)")
    made.add_argument(
        "--epochs", type=how_many, default=100, help="of a run (default: %(default)s)"
    )
    made.add_argument("--tflops", type=positive, required=True, help="Tflop/s of a matrix product")
    made.add_argument(
        "--share", type=share, default=1.0, help="of it that training reaches (default: 1)"
    )
    made.add_argument(
        "--set", action="append", default=[], metavar="DATASET.OPTION=VALUE",
        help="such as cremad.audio=stft20s; may be given several times (default: as they are)",
    )  # fmt: skip
    made.add_argument(
        "--ratios", type=Path, metavar="FILE",
        help="what step_time.py --methods all --json printed (default: count)",
    )  # fmt: skip
    return made.parse_args(argv)


def chosen_datasets(set_options: Sequence[str]) -> list[tuple[str, NativeDataset, int]]:
    """Return the name, the dataset and the training samples of each that is read from files.

    Raises:
        UserError: if an option of ``--set`` is of no dataset, or has no such value.
    """
    names = DATASETS.names()
    own: dict[str, dict[str, Any]] = {}
    for key, value in pairs(set_options, "--set").items():
        name, _, option = key.partition(".")
        if name not in names:
            raise UserError(f"unknown dataset {name!r}{nearest(name, names)}")
        own.setdefault(name, {})[option] = parse_value(value)
    found = []
    for name in names:
        cls = DATASETS.load(name)
        dataset = cls(validate(cls.Config, own.get(name, {}), name))
        if isinstance(dataset, NativeDataset):
            found.append((name, dataset, training_samples(dataset.info.counts)))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Count and print."""
    options = arguments(argv)
    page = Page(options.into, "study-hours")
    datasets = chosen_datasets(options.set)
    given = measured(options.ratios) if options.ratios else None
    torch.set_num_threads(1)  # what is counted is small; threads would only be in the way
    prices: dict[int, float] = {}
    rows, whole = [], 0.0
    for name, dataset, samples in datasets:
        modalities = len(dataset.task.modalities)
        if modalities not in prices:
            ratios = given or counted(single(), modalities, options.epochs)
            prices[modalities] = sum(ratios.get(method, 1.0) for method in METHODS.names())
        chosen = encoder_names(dataset.task.modalities, dataset.encoders)
        each = sample_flops("concat", dataset.task, chosen)
        epoch = samples * each / (options.tflops * 1e12 * options.share)
        hours = epoch * options.epochs * options.seeds * prices[modalities] / 3600
        whole += hours
        shown = ", ".join(f"{m} {e}" for m, e in chosen.items())
        numbers = (each / 1e9, samples * each / PFLOP, epoch, prices[modalities])
        rows.append(
            (name, shown, str(samples), *(f"{value:.2f}" for value in numbers), f"{hours:.1f}")
        )
    enough = math.ceil(100 * whole * options.share / DAY)
    said = f" Options: {', '.join(options.set)}." if options.set else ""
    text = (
        f"{len(METHODS.names())} methods, {options.seeds} seeds, {options.epochs} epochs, at "
        f"{options.share:.0%} of {options.tflops:.0f} Tflop/s; *methods* is what all of them "
        f"cost together, in runs of `concat`.\nAll of it: {whole:.1f} hours of one such device; a "
        f"day is enough from a share of {enough}% on; a half would take "
        f"{2 * whole * options.share:.0f} hours, a third {3 * whole * options.share:.0f}.{said}\n\n"
    ) + table(
        {
            "dataset": "l", "encoders": "l", "train": "r", "Gflop/sample": "r",
            "Pflop/epoch": "r", "s/epoch": "r", "methods": "r", "hours": "r",
        },
        rows,
    )  # fmt: skip
    page.show(text)


if __name__ == "__main__":
    script(main)
