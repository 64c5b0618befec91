"""Cells per minute of K workers at once against one at a time, interleaved.

    python benchmarks/side_by_side.py --workers 1,2                      # CPU: cores divided
    python benchmarks/side_by_side.py --device cuda --workers 1,2,4,8    # K on one GPU
    python benchmarks/side_by_side.py --device cuda --encoder image=resnet18

Every round runs the same cells once with each number of workers, through the pool that
``mmbench run`` uses, in an order drawn anew in each. No worker gets a cell before all are
ready, when the clock starts, so that start-up, which long grids share, is not in it; it stops when
the last cell is done. A cell that is not counted comes first: what is built once is there then.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmbench.cell import Cell
from mmbench.cli.output import pairs
from mmbench.errors import MMBenchError
from mmbench.launch.local import Pool, slots
from mmbench.launch.source import Listed, Task
from mmbench.settings import RunSettings, default_cache
from mmbench.sweep import Request, expand
from mmbench.testing.command_line import Page, counts, how_many, parser, script, table
from mmbench.testing.speed import in_turn
from mmbench.training.device import choose
from mmbench.training.environment import conditions


class Together(Listed):
    """Gives out the cells once every worker has asked for one."""

    def __init__(self, cells: Sequence[Cell], results: Path, workers: int) -> None:
        super().__init__(cells, results)
        self.workers = workers
        self.ready: set[Path] = set()  # their logs
        self.begun = 0.0

    def take(self, log: Path) -> Task | None:
        """Return the next cell, if all are ready."""
        if len(self.ready) < self.workers:
            self.ready.add(log)
            if len(self.ready) < self.workers:
                return None
            self.begun = time.perf_counter()
        return super().take(log)

    def again(self) -> float | None:
        """Return how long to wait until all are ready."""
        return 0.05 if len(self.ready) < self.workers else super().again()


def seconds_of(cells: Sequence[Cell], device: str, workers: int) -> float:
    """Run the cells with ``workers`` at once; return the seconds from when all are ready."""
    places = slots(device, workers, workers, None)[:workers]
    done = [0.0]

    def watch(cell: Cell | None, message: dict[str, Any]) -> None:
        if message["kind"] == "done":
            done.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        source = Together(cells, Path(folder), workers)
        pool = Pool(Path(folder), default_cache(), RunSettings(), places, [], watch)
        outcome = pool.run(source)
    if outcome.interrupted:
        raise MMBenchError("interrupted: nothing was measured")
    if reasons := outcome.failed | outcome.refused:
        raise MMBenchError(next(iter(reasons.values())))
    return done[-1] - source.begun


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser(__doc__, "--device", "--into")
    arguments.add_argument(
        "--workers", type=counts, default="1,2",
        help="numbers of cells at once, compared with the first (default: %(default)s)",
    )  # fmt: skip
    arguments.add_argument("--method", default="concat", help="(default: %(default)s)")
    arguments.add_argument("--dataset", default="avdigits", help="(default: %(default)s)")
    arguments.add_argument(
        "--encoder", action="append", default=[], metavar="MODALITY=ENCODER",
        help="may be given several times (default: those of the dataset)",
    )  # fmt: skip
    arguments.add_argument(
        "--cells", type=how_many, help="of a round (default: four for each of the most workers)"
    )
    arguments.add_argument(
        "--epochs", type=how_many, default=5, help="of a cell (default: %(default)s)"
    )
    arguments.add_argument(
        "--rounds", type=how_many, default=3, help="turns of each number (default: %(default)s)"
    )
    options = arguments.parse_args(argv)
    most = max(options.workers)
    if options.workers[0] != 1 or len(set(options.workers)) < len(options.workers):
        arguments.error("--workers begins with 1, to which the others are set, and names each once")
    number = options.cells or 4 * most
    if number < most:
        arguments.error(f"--cells {number} leaves some of {most} workers without one")
    device = choose(options.device)
    chosen = pairs(options.encoder, "--encoder")
    place = "_".join([device.type, *sorted(set(chosen.values()))])
    page = Page(options.into, f"side-by-side-{place}")
    encoders = {f"encoder.{k}": v for k, v in chosen.items()}
    cells = expand(
        Request(
            methods=[options.method], datasets=[options.dataset], seeds=list(range(number)),
            protocol="validated", fidelity="corrected", preset="common", settings={},
            shared={"trainer.epochs": options.epochs, **encoders},
        ),
        default_cache(),
    )  # fmt: skip
    seconds_of(cells[:1], options.device, 1)
    taken: dict[int, list[float]] = {workers: [] for workers in options.workers}
    for turn in range(options.rounds):
        for workers in in_turn(options.workers, turn):
            taken[workers].append(seconds_of(cells, options.device, workers))
    base = taken[options.workers[0]]
    rows = []
    for workers, seconds in taken.items():
        gains = [b / s for b, s in zip(base, seconds, strict=True)]
        rate = 60 * len(cells) / statistics.median(seconds)
        rows.append(
            (
                str(workers), f"{rate:.1f}", f"{statistics.median(gains):.2f}",
                f"{min(gains):.2f} to {max(gains):.2f}",
            )
        )  # fmt: skip
    shown = ", ".join(f"{m} {e}" for m, e in sorted(cells[0].encoders.items()))
    text = (
        f"{len(cells)} cells of `{options.method}` on `{options.dataset}` ({shown}), "
        f"{options.epochs} epochs each,\nthe cores divided among the workers; {options.rounds} "
        f"rounds. {conditions(device)}.\n\n"
    ) + table({"workers": "r", "cells/min": "r", "against one": "r", "range": "c"}, rows)
    page.show(text)


if __name__ == "__main__":
    script(main)
