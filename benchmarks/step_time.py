"""Time of a training step of every method relative to ``concat``, interleaved in one process.

    python benchmarks/step_time.py --methods concat,iprm --json
    python benchmarks/step_time.py --batch 64 --methods targets --steps 1 --added --into PAGE

Every method gets the same ResNet-18 encoders and the same random batches, and takes its steps
through the shared trainer. A round gives each method one turn, in an order that is drawn anew, as a
turn may feel the one before; a method's ratio is taken within a round, so that a machine that slows
down slows all of them. The median over rounds is printed, with the quartiles, and the
floating-point operations of the step over those of ``concat``: a step limited by arithmetic cannot
be faster than that. Work between epochs (PMR's prototypes, OGR-GB's estimate) is not in it.

On a GPU the shapes are CREMA-D's (257 x 1250 spectrogram, two frames of 224 x 224, batch 64). On
the CPU the sides are a quarter of these and the batch is 8, unless given: a step of that size takes
a 16th of the time, and what a method adds to a step on features, logits and weights then weighs up
to 16 times as much. The ratio of a method that only does that is therefore too large, never too
small.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmbench.method import Batch
from mmbench.settings import RunSettings, TrainerSettings
from mmbench.testing.command_line import (
    Page,
    add_shapes,
    how_many,
    how_many_from,
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
    in_turn,
    make_trainer,
    operations,
    random_loader,
)
from mmbench.training.device import choose, synchronize
from mmbench.training.environment import conditions
from mmbench.training.trainer import Trainer

BASELINE, CLASSES = "concat", 6
SAME = 0.005  # how far arithmetic may be from the baseline's and still be called its own
TINY = ((1, 9, 9), (3, 2, 9, 9))  # audio, visual: little work for the same encoders
TIMES = 5  # as many rounds for what is added, whose steps are short
Quartiles = tuple[float, float, float]  # the median between them
# what a step may cost at most, relative to the baseline
TARGETS = {
    "iprm": 1.01, "lfm": 1.02, "ogm": 1.03, "pmr": 1.03, "mla": 1.10, "mmpareto": 1.5, "agm": 2.0,
}  # fmt: skip


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__, "--device", "--into")
    made.add_argument(
        "--methods", default="all",
        help="comma-separated, all, or targets: those that have one (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--rounds", type=how_many, default=9, help="turns of each method (default: %(default)s)"
    )
    made.add_argument(
        "--warmup", type=how_many_from(0), default=2,
        help="rounds before, that are not counted (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--steps", type=how_many, default=4,
        help="of a turn; methods that go through phases may need two per modality "
        "(default: %(default)s)",
    )  # fmt: skip
    made.add_argument("--threads", type=how_many, help="of torch (default: as torch chooses)")
    made.add_argument(
        "--batch", type=how_many,
        help=f"samples per step (default: {CREMAD[2]} on a GPU, {SMALL[2]} elsewhere)",
    )  # fmt: skip
    add_shapes(made, CREMAD, SMALL)
    made.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)"
    )
    made.add_argument("--compile", action="store_true", help="compile encoders (default: no)")
    made.add_argument(
        "--added", action="store_true",
        help="also measure what methods add to a step of the baseline's arithmetic (default: no)",
    )  # fmt: skip
    made.add_argument(
        "--json", action="store_true", help="print {method: median ratio}, not the table"
    )
    options = made.parse_args(argv)
    if options.json and options.added:
        made.error("--json prints the ratios alone: leave out --added")
    if options.added and options.batch == 1:
        made.error("--added wants a --batch of 2 or more: a norm has one value a channel there")
    return options


def turn(trainer: Trainer, batches: Sequence[Batch]) -> float:
    """Take one step of each batch, in an epoch of its own; return the seconds of the steps.

    As in training, the device is not waited for after each step, only at the end of the turn; what
    a method does at the beginning of an epoch is taken out, as far as the processor works on it.
    """
    between = 0.0
    synchronize(trainer.device)
    begun = time.perf_counter()
    for offset, batch in enumerate(batches):
        started = time.perf_counter()
        trainer.epoch, trainer.step_in_epoch = LATE + offset, 0
        with trainer.autocast():
            trainer.method.on_epoch_start()
            between += time.perf_counter() - started
            logged = trainer.method.step(batch)
        trainer.meter.add(logged)
        trainer.step += 1
    synchronize(trainer.device)
    return time.perf_counter() - begun - between


def measure(
    trainers: Mapping[str, Trainer], batches: Sequence[Batch], rounds: int, warmup: int
) -> dict[str, list[float]]:
    """Return the seconds of every method's turn in every counted round."""
    names = list(trainers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        for name in in_turn(names, number):
            taken = turn(trainers[name], batches)
            if number >= warmup:
                seconds[name].append(taken)
    return seconds


def parts(trainer: Trainer, batches: Sequence[Batch]) -> tuple[float, float]:
    """Return the shares of a step that its backward pass and its update take."""
    seconds = {"backward": 0.0, "update": 0.0}

    def timed(name: str) -> Callable[..., None]:
        inner = getattr(trainer, name)

        def call(*args: Any, **kwargs: Any) -> None:  # Any: passed through
            synchronize(trainer.device)
            started = time.perf_counter()
            inner(*args, **kwargs)
            synchronize(trainer.device)
            seconds[name] += time.perf_counter() - started

        return call

    for name in seconds:
        setattr(trainer, name, timed(name))
    whole = turn(trainer, batches)
    for name in seconds:
        delattr(trainer, name)
    return seconds["backward"] / whole, seconds["update"] / whole


def against_baseline(
    seconds: Mapping[str, Sequence[float]], compared: Callable[[float, float], float]
) -> dict[str, Quartiles]:
    """Return how each method's time compares with the baseline's, per round."""
    rows = {}
    for name, taken in seconds.items():
        each = [compared(t, base) for t, base in zip(taken, seconds[BASELINE], strict=True)]
        low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
        rows[name] = (low, middle, high)
    return rows


def markdown(
    rows: Mapping[str, Quartiles],
    arithmetic: Mapping[str, float],
    added: Mapping[str, Quartiles],
    about: Mapping[str, object],
    step: str,
    milliseconds: float,
) -> str:
    """Return the table with its conditions.

    Args:
        rows: times over the baseline's.
        arithmetic: operations of each method's step over those of the baseline's.
        added: milliseconds on top of the baseline's, of methods of its arithmetic; may be empty.
        about: the conditions.
        step: what a step of the baseline takes, in words.
        milliseconds: of such a step.
    """
    columns = {"method": "l", "relative time": "r", "quartiles": "c", "arithmetic": "r"}
    if added:
        columns |= {"added (ms)": "r", "quartiles of it": "c", "with it": "r"}
    shown = []
    for name, (low, middle, high) in sorted(rows.items(), key=lambda item: item[1][1]):
        row = [name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}", f"{arithmetic[name]:.3f}"]
        if name in added:
            less, more, most = added[name]
            whole = 1 + more / milliseconds
            row += [f"{more:.1f}", f"{less:.1f} to {most:.1f}", f"{whole:.4f}"]
        row += [""] * (len(columns) - len(row))
        shown.append((*row, f"{TARGETS[name]:.2f}" if name in TARGETS else ""))
    return (
        f"Batch {about['batch']}, audio {about['audio']}, visual {about['visual']}, ResNet-18 "
        f"encoders, {about['precision']}, default options{about['compiled']}:\n"
        f"time of a training step relative to `{BASELINE}`, median and quartiles over "
        f"{about['rounds']} rounds, interleaved\n"
        f"in one process; steps in a turn: {about['steps']}. {about['conditions']}.\n{step}\n\n"
    ) + table({**columns, "target": "r"}, shown)


@contextmanager
def taking_turns(
    names: Sequence[str],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    batch: int,
    rounds: int,
    options: argparse.Namespace,
) -> Iterator[tuple[Mapping[str, Trainer], Sequence[Batch], Mapping[str, Sequence[float]]]]:
    """Yield each method's trainer, the batches, and the seconds of its turns."""
    task = audiovisual(shapes[0], shapes[1], CLASSES)
    loader = random_loader(task, options.steps * batch, batch, choose(options.device))
    batches = list(loader.everything())
    settings = TrainerSettings(precision=options.precision, batch_size=batch)
    run = RunSettings(compile=options.compile)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            n: make_trainer(n, task, loader, settings, Path(folder) / n, run) for n in names
        }
        yield trainers, batches, measure(trainers, batches, rounds, options.warmup)


def added_milliseconds(
    arithmetic: Mapping[str, float], batch: int, options: argparse.Namespace
) -> dict[str, Quartiles]:
    """Return what methods of the baseline's arithmetic add to its step, on small inputs."""
    names = [name for name, ratio in arithmetic.items() if abs(ratio - 1) < SAME]
    with taking_turns(names, TINY, batch, TIMES * options.rounds, options) as (_, _, seconds):
        found = against_baseline(seconds, lambda t, base: 1000 * (t - base) / options.steps)
    return {name: each for name, each in found.items() if name != BASELINE}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = arguments(argv)
    device = choose(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    default_audio, default_visual, default_batch = CREMAD if device.type == "cuda" else SMALL
    audio, visual = options.audio or default_audio, options.visual or default_visual
    batch = options.batch or default_batch
    place = device.type + ("_compiled" if options.compile else "")
    page = Page(options.into, f"step-time-{place}-{batch}")
    wanted = list(TARGETS) if options.methods == "targets" else method_names(options.methods)
    names = [BASELINE, *(n for n in wanted if n != BASELINE)]
    shapes = audio, visual
    with taking_turns(names, shapes, batch, options.rounds, options) as (
        trainers, batches, seconds,
    ):  # fmt: skip
        rows = against_baseline(seconds, lambda t, base: t / base)
        if options.json:
            print(json.dumps({name: round(middle, 4) for name, (_, middle, _) in rows.items()}))
            return
        each = [parts(trainers[BASELINE], batches) for _ in range(min(options.rounds, 5))]
        counted = {name: sum(operations(trainer, batches)) for name, trainer in trainers.items()}
    arithmetic = {name: count / counted[BASELINE] for name, count in counted.items()}
    added = added_milliseconds(arithmetic, batch, options) if options.added else {}
    backward, update = (statistics.median(shares) for shares in zip(*each, strict=True))
    milliseconds = 1000 * statistics.median(seconds[BASELINE]) / options.steps
    step = (
        f"A step of `{BASELINE}` takes {milliseconds:.0f} ms: {1 - backward - update:.0%} forward, "
        f"{backward:.0%} backward, {update:.0%} update; a second\nbackward pass alone would make "
        f"it {1 + backward:.2f}, a second forward and backward pass {2 - update:.2f}.\n"
        f"Arithmetic: the floating-point operations of a step over those of `{BASELINE}`, counted."
    )
    if added:
        step += (
            f"\nAdded: what a step takes more than that of `{BASELINE}` on inputs of "
            f"{TINY[0][1]} x {TINY[0][2]},\notherwise alike, over {TIMES * options.rounds} rounds; "
            f"with it: 1 + added / {milliseconds:.0f} ms."
        )
    text = markdown(
        rows,
        arithmetic,
        added,
        {
            "rounds": options.rounds, "steps": options.steps, "precision": options.precision,
            "compiled": ", compiled" if options.compile else "",
            "conditions": conditions(device), "batch": batch,
            "audio": " x ".join(map(str, audio)), "visual": " x ".join(map(str, visual)),
        },
        step,
        milliseconds,
    )  # fmt: skip
    page.show(text)


if __name__ == "__main__":
    script(main)
