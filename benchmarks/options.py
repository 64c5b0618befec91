"""What the options of execution bring: time of a step under each against the default, interleaved.

    python benchmarks/options.py
    python benchmarks/options.py --device cuda --into docs/performance.md

Compares memory formats, precision, compiled encoders and the optimiser's kernel for one method.
A round gives each variant one turn; the ratio is taken within a round. ``parity``: the largest
difference of the loss from the default's over the steps of the first round, relative to it; both
start from the same weights and batches.
"""

import statistics
import tempfile
import time
from argparse import BooleanOptionalAction
from collections.abc import Sequence
from pathlib import Path

import torch

from mmbench.method import Batch
from mmbench.settings import RunSettings, TrainerSettings
from mmbench.testing.command_line import Page, add_shapes, how_many, parser, script, table
from mmbench.testing.speed import (
    CREMAD,
    SMALL,
    audiovisual,
    make_trainer,
    random_loader,
)
from mmbench.training import optimizers
from mmbench.training.device import allow_tf32, choose, memory_format, synchronize
from mmbench.training.environment import conditions
from mmbench.training.trainer import Trainer

CLASSES, STEPS = 6, 4


def turn(trainer: Trainer, batches: Sequence[Batch]) -> tuple[float, list[float]]:
    """Take the steps of one turn; return their seconds and losses."""
    allow_tf32(trainer.settings.precision)  # for the whole process, in which the trainers alternate
    trainer.epoch = trainer.step_in_epoch = 0
    with trainer.autocast():
        trainer.method.on_epoch_start()
    losses = []
    synchronize(trainer.device)
    begun = time.perf_counter()
    for batch in batches:
        with trainer.autocast():
            losses.append(trainer.method.step(batch)["loss"].detach())
        trainer.step += 1
    synchronize(trainer.device)
    return time.perf_counter() - begun, torch.stack(losses).tolist()


def variants(device: torch.device, compiled: bool) -> dict[str, tuple[RunSettings, str, bool]]:
    """Return name -> (run settings, precision, fused optimiser); the default comes first."""
    usual = memory_format(device, "auto")
    other = "contiguous" if usual == "channels_last" else "channels_last"
    found = {
        f"default ({usual}, fp32, fused)": (RunSettings(), "fp32", True),
        other: (RunSettings.model_validate({"memory_format": other}), "fp32", True),
        "optimiser not fused": (RunSettings(), "fp32", False),
        "bf16": (RunSettings(), "bf16", True),
        f"bf16, {other}": (RunSettings.model_validate({"memory_format": other}), "bf16", True),
    }
    if device.type == "cuda":
        found["tf32"] = (RunSettings(), "tf32", True)
    if compiled:
        found["compiled"] = (RunSettings(compile=True), "fp32", True)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser(__doc__, "--device", "--into")
    arguments.add_argument("--method", default="concat", help="(default: %(default)s)")
    arguments.add_argument(
        "--rounds", type=how_many, default=5, help="turns of each variant (default: %(default)s)"
    )
    arguments.add_argument(
        "--batch", type=how_many,
        help=f"samples per step (default: {CREMAD[2]} on a GPU, {SMALL[2]} elsewhere)",
    )  # fmt: skip
    add_shapes(arguments, CREMAD, SMALL)
    arguments.add_argument(
        "--compile", action=BooleanOptionalAction, default=True,
        help="measure compiled encoders too (default: yes)",
    )  # fmt: skip
    options = arguments.parse_args(argv)
    device = choose(options.device)
    page = Page(options.into, f"options-{device.type}")
    default = CREMAD if device.type == "cuda" else SMALL
    audio, visual = options.audio or default[0], options.visual or default[1]
    batch = options.batch or default[2]
    task = audiovisual(audio, visual, CLASSES)
    loader = random_loader(task, STEPS * batch, batch, device)
    batches = list(loader.everything())
    wanted = variants(device, options.compile)
    trainers = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (run, precision, fused) in wanted.items():
            settings = TrainerSettings.model_validate({"precision": precision, "batch_size": batch})
            kept, optimizers.FUSED = optimizers.FUSED, optimizers.FUSED if fused else ()
            trainers[name] = make_trainer(options.method, task, loader, settings, Path(folder), run)
            optimizers.FUSED = kept
        first = {name: turn(trainer, batches)[1] for name, trainer in trainers.items()}
        taken: dict[str, list[float]] = {name: [] for name in trainers}
        names = list(trainers)
        for number in range(options.rounds):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                taken[name].append(turn(trainers[name], batches)[0])
    base = names[0]
    rows = []
    for name in names:
        ratios = [t / b for t, b in zip(taken[name], taken[base], strict=True)]
        apart = max(abs(x - y) / abs(y) for x, y in zip(first[name], first[base], strict=True))
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        rows.append((name, f"{statistics.median(ratios):.3f}", spread, f"{apart:.1e}"))
    step = 1000 * statistics.median(taken[base]) / STEPS
    shapes = " and ".join(" x ".join(map(str, shape)) for shape in (audio, visual))
    text = (
        f"`{options.method}` on ResNet-18 encoders, {shapes}, batch {batch}; a step of the default "
        f"takes {step:.0f} ms;\n{options.rounds} rounds. {conditions(device)}.\n\n"
    ) + table({"variant": "l", "relative time": "r", "range": "c", "parity": "r"}, rows)
    page.show(text)


if __name__ == "__main__":
    script(main)
