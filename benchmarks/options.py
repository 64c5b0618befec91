"""What the options of execution bring: time of a step under each against the default, interleaved.

    python benchmarks/options.py
    python benchmarks/options.py --device cuda --into docs/performance.md

Compares memory formats, precision, compiled encoders and the optimiser's kernel for one method.
A round gives each variant one turn; the ratio is taken within a round. Parity is that of one step
from the same weights on the same batch, as later ones start from weights that differ already: how
far the loss is from the default's, relative to it, and how far the change of all weights is from
the default's change, by the norms of both.
"""

import statistics
import tempfile
import time
from argparse import BooleanOptionalAction
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmbench.method import Batch
from mmbench.settings import RunSettings, TrainerSettings
from mmbench.testing.command_line import Page, add_shapes, how_many, parser, script, table
from mmbench.testing.speed import (
    CREMAD,
    SMALL,
    audiovisual,
    in_turn,
    make_trainer,
    random_loader,
)
from mmbench.training import optimizers
from mmbench.training.device import (
    allow_tf32,
    bf16_instructions,
    choose,
    memory_format,
    synchronize,
)
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


def first_step(trainer: Trainer, batch: Batch) -> tuple[float, Tensor]:
    """Take one step; return its loss, and the change of all weights, one after the other."""
    before = _weights(trainer)
    _, (loss,) = turn(trainer, [batch])
    return loss, _weights(trainer) - before


def _weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in trainer.method.parameters()])


def parity(trainers: Mapping[str, Trainer], batch: Batch) -> dict[str, tuple[float, float]]:
    """Return how far each one's loss and change of weights in a step are from the first one's."""
    found = {}
    usual: tuple[float, Tensor] | None = None
    for name, trainer in trainers.items():
        loss, change = first_step(trainer, batch)
        usual = usual or (loss, change)
        off = (change - usual[1]).norm() / usual[1].norm()
        found[name] = (abs(loss - usual[0]) / abs(usual[0]), float(off))
    return found


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
        apart = parity(trainers, batches[0])
        for trainer in trainers.values():
            turn(trainer, batches)  # warms up
        names = list(trainers)
        taken: dict[str, list[float]] = {name: [] for name in names}
        for number in range(options.rounds):
            for name in in_turn(names, number):
                taken[name].append(turn(trainers[name], batches)[0])
    base, rows = names[0], []
    for name in names:
        ratios = [t / b for t, b in zip(taken[name], taken[base], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        differences = (f"{each:.1e}" for each in apart[name])
        rows.append((name, f"{statistics.median(ratios):.3f}", spread, *differences))
    step = 1000 * statistics.median(taken[base]) / STEPS
    shapes = " and ".join(" x ".join(map(str, shape)) for shape in (audio, visual))
    native = bf16_instructions() or "none that Linux lists"
    on_cpu = f"The processor's instructions for bf16: {native}.\n" if device.type == "cpu" else ""
    text = (
        f"`{options.method}` on ResNet-18 encoders, {shapes}, batch {batch}; a step of the default "
        f"takes {step:.0f} ms;\n{options.rounds} rounds. {conditions(device)}.\n{on_cpu}"
        "Parity: how far the loss of one step, and its change of the weights, are from the "
        "default's, relative to these.\n\n"
    ) + table(
        {
            "variant": "l", "relative time": "r", "range": "c", "parity of loss": "r",
            "parity of step": "r",
        },
        rows,
    )  # fmt: skip
    page.show(text)


if __name__ == "__main__":
    script(main)
