"""The command that makes a cell again, and whether a second run gave the same."""

import math
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mmbench.cell import Cell
from mmbench.record import Record
from mmbench.registry import METHODS
from mmbench.settings import as_typed


def command_line(cell: Cell, untold: Collection[str] = ()) -> str:
    """Return what to type to make ``cell``; a method with variants makes its others as well.

    Of a method that no plug-in loaded here registers, FILE.py stands for the one that does.

    Args:
        cell: what to make.
        untold: options of the dataset to say though they were not asked for: those that its
            defaults no longer say, as with a table of one's own that was prepared again.
    """
    words = ["mmbench", "run", "--methods", cell.method, "--datasets", cell.dataset]
    words += ["--seeds", f"{cell.seed},", "--protocol", cell.protocol]
    words += ["--fidelity", cell.fidelity, "--preset", cell.preset]
    held = cell.dataset_config
    data = {f"dataset.{key}": held[key] for key in untold if key in held}
    for key, value in sorted((data | cell.changed).items()):
        if key.startswith("encoder."):
            words += ["--encoder", f"{key.removeprefix('encoder.')}={value}"]
        else:
            words += ["--set", f"{key}={as_typed(value)}"]
    own = "" if cell.method in METHODS.names() else " --plugin FILE.py"
    return shlex.join(words) + own


@dataclass(frozen=True)
class Comparison:
    """Two runs of one cell.

    Attributes:
        numbers: how many numbers both hold.
        differing: names of those that differ, the first metrics first.
        largest: the largest absolute difference.
        unlike: what else sets the runs apart, which may explain it.
    """

    numbers: int
    differing: tuple[str, ...]
    largest: float
    unlike: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every number is the same, bit for bit."""
        return self.numbers > 0 and not self.differing


def compare(old: Record, new: Record) -> Comparison:
    """Compare all that training computed, and nothing that a clock did."""
    one, two = dict(_numbers(old)), dict(_numbers(new))
    if old.status != new.status:
        return Comparison(0, (f"status: {old.status} before, {new.status} now",), math.inf, ())
    names = [*one, *(name for name in two if name not in one)]
    gaps = {n: abs(one.get(n, math.nan) - two.get(n, math.nan)) for n in names}
    differing = tuple(n for n in names if one.get(n) != two.get(n))
    largest = (
        max((gap if gap == gap else math.inf for gap in gaps.values()), default=0.0)
        if differing
        else 0.0
    )
    return Comparison(len(names), differing, largest, tuple(_unlike(old, new)))


def _numbers(record: Record) -> Iterator[tuple[str, float]]:
    for at, metrics in record.final.items():
        for prediction, values in metrics.items():
            for metric, value in values.items():
                yield f"{at} {metric} of {prediction}", value
    if record.selection:
        yield "selected epoch", record.selection.epoch
    for part in ("subsets", "shapley", "probe"):
        for name, value in getattr(record.imbalance, part).items():
            yield f"{part} of {name or 'none'}", value
    for row in record.curve:
        for name, value in row.train.items():
            yield f"epoch {row.epoch + 1} {name}", value
        for name, value in row.gradient_norm.items():
            yield f"epoch {row.epoch + 1} gradient norm of {name}", value
        for metrics in (row.val, row.test):
            for prediction, values in metrics.items():
                for metric, value in values.items():
                    yield f"epoch {row.epoch + 1} {metric} of {prediction}", value


def _unlike(old: Record, new: Record) -> Iterator[str]:
    for key in (
        "device_name",
        "threads",
        "ranks",
        "commit",
        "clean",
        "python",
        "platform",
        "libraries",
    ):
        before, now = (getattr(record.environment, key) for record in (old, new))
        if before != now:
            yield f"{key.replace('_', ' ')}: {before} before, {now} now"
    if old.data and new.data and old.data.data_hash != new.data.data_hash:
        yield f"data: {old.data.data_hash} before, {new.data.data_hash} now"
