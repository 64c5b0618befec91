"""What a cell costs beside its training: seconds per part, in a warm process.

    python benchmarks/cell_overhead.py
    python benchmarks/cell_overhead.py --rounds 9 --into docs/performance.md

Runs cells of the embedded datasets one after another with one thread, as a worker of the pool
does. The first is not counted: it loads libraries and data. A cell's time is divided into its
training steps, the validation after each epoch, the parts named in the table, and the rest.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from mmbench.cell import Cell
from mmbench.errors import MMBenchError
from mmbench.record import Record
from mmbench.settings import RunSettings, default_cache
from mmbench.sweep import Request, expand
from mmbench.testing.command_line import Page, how_many, parser, script, table
from mmbench.training import checkpoint, run_cell, trainer
from mmbench.training.environment import conditions
from mmbench.wording import counted

# part -> where the function of that part is looked up when a cell runs
PARTS: dict[str, tuple[object, str]] = {
    "validation": (trainer, "evaluate"),
    "checkpoints": (checkpoint, "save"),
    "data and method": (run_cell, "assemble"),
    "test": (run_cell, "evaluate"),
    "imbalance reached": (run_cell, "measure"),
}
BESIDE = "beside training and validation"
TARGET = 0.2  # seconds


class Clock:
    """Counts the seconds inside a function of a module, by taking its place."""

    def __init__(self, place: object, name: str) -> None:
        self.seconds = 0.0
        self.inner: Callable[..., Any] = getattr(place, name)
        setattr(place, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # Any: passed through
        """Call the function and add its time."""
        begun = time.perf_counter()
        try:
            return self.inner(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - begun


def timed(cell: Cell, cache: Path, clocks: dict[str, Clock]) -> dict[str, float]:
    """Run one cell; return the seconds of each part."""
    for clock in clocks.values():
        clock.seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        record: Record = run_cell.run_cell(
            cell, results=Path(folder), cache=cache, run=RunSettings(device="cpu", threads=1)
        )
        whole = time.perf_counter() - begun
    if record.timing is None:
        raise MMBenchError(f"{cell.folder} was not trained: {record.reason or record.failure}")
    parts = {"training steps": record.timing.training}
    parts |= {name: clock.seconds for name, clock in clocks.items()}
    parts["rest (identity, record, files)"] = whole - sum(parts.values())
    parts["whole cell"] = whole
    parts[BESIDE] = whole - parts["training steps"] - parts["validation"]
    measured = parts["test"] + parts["imbalance reached"]
    parts["of which not measuring the model"] = parts[BESIDE] - measured
    return parts


def rounds(
    method: str, dataset: str, count: int, clocks: dict[str, Clock]
) -> list[dict[str, float]]:
    """Return the parts of one cell for each of ``count`` seeds, after one that warms up."""
    cells = expand(
        Request(
            methods=[method], datasets=[dataset], seeds=list(range(count + 1)),
            protocol="validated", fidelity="corrected", preset="common", settings={}, shared={},
        ),
        default_cache(),
    )  # fmt: skip
    return [timed(cell, default_cache(), clocks) for cell in cells][1:]


def _verdict(
    what: str,
    pick: Callable[[list[float]], float],
    found: Mapping[str, Sequence[Mapping[str, float]]],
) -> str:
    """Say what a cell of each dataset takes beside its training, and whether that is the target."""
    seconds = {name: pick([parts[BESIDE] for parts in each]) for name, each in found.items()}
    said = ", ".join(f"{s:.3f} s on {name}" for name, s in seconds.items())
    return f"{what} {said}: {'met' if max(seconds.values()) < TARGET else 'missed'}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser(__doc__, "--into")
    arguments.add_argument("--method", default="concat", help="(default: %(default)s)")
    arguments.add_argument(
        "--datasets", default="mfeat3,avdigits", help="comma-separated (default: %(default)s)"
    )
    arguments.add_argument(
        "--rounds", type=how_many, default=5, help="cells that are counted (default: %(default)s)"
    )
    options = arguments.parse_args(argv)
    page = Page(options.into, "cell-overhead")
    torch.set_num_threads(1)
    clocks = {name: Clock(*place) for name, place in PARTS.items()}
    names = options.datasets.split(",")
    with threadpool_limits(1):  # numpy's and scikit-learn's, as the pool sets them
        found = {name: rounds(options.method, name, options.rounds, clocks) for name in names}
    columns = {"part": "l"}
    for name in names:
        columns |= {f"{name} (s)": "r", f"range of {name}": "c"}
    rows = []
    for part in found[names[0]][0]:
        row = [part]
        for each in found.values():
            seconds = [parts[part] for parts in each]
            row += [
                f"{statistics.median(seconds):.3f}",
                f"{min(seconds):.3f} to {max(seconds):.3f}",
            ]
        rows.append(tuple(row))
    text = (
        f"A cell of `{options.method}` with its default settings in a warm process, one thread: "
        f"median and range\nof the seconds over {counted(options.rounds, 'seed')}. "
        f"{conditions(torch.device('cpu'))}.\n"
        f"Target: below {TARGET} s {BESIDE}; {_verdict('medians', statistics.median, found)}; "
        f"{_verdict('slowest', max, found)}.\n\n"
    ) + table(columns, rows)
    page.show(text)


if __name__ == "__main__":
    script(main)
