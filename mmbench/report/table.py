"""A table before it is rendered: text, and which entries are best and second."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from mmbench.report.summary import mean_std

Style = Literal["plain", "best", "second", "absent", "cited"]


class Source(NamedTuple):
    """One value behind a number, the record that holds it, and its column in the frame."""

    seed: int
    record: str
    value: float
    key: str


@dataclass(frozen=True)
class Sources(Sequence[Source]):
    """The values behind a number, one per seed, in columns: a table has thousands of numbers.

    Attributes:
        key: their column in the frame.
        seeds: of each value.
        records: name of the record that holds it.
        values: the values.
    """

    key: str = ""
    seeds: Sequence[int] = ()
    records: Sequence[str] = ()
    values: Sequence[float] = ()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.values)

    def __getitem__(self, at: Any) -> Any:  # Any: overloaded in Sequence; slices are not needed
        """Return one value with its seed and record."""
        return Source(self.seeds[at], self.records[at], self.values[at], self.key)

    @property
    def by_seed(self) -> dict[int, float]:
        """The values by seed."""
        return dict(zip(self.seeds, self.values, strict=True))

    def of(self, seeds: Collection[int]) -> "Sources":
        """Return those of some seeds."""
        kept = [i for i, seed in enumerate(self.seeds) if seed in seeds]
        return Sources(
            self.key,
            [self.seeds[i] for i in kept],
            [self.records[i] for i in kept],
            [self.values[i] for i in kept],
        )


NONE = Sources()


@dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        text: what is shown.
        style: how; ``cited`` marks a published number.
        value: the number behind it, as a fraction; None if there is none.
        spread: its sample standard deviation.
        seeds: how many seeds it is the mean of.
        sources: the records it is the mean of.
        against: the records whose values each was set against first, paired by seed.
        pairing: how: taken away, or divided by.
        scale: what ``value`` is shown times: a share in percent.
    """

    text: str
    style: Style = "plain"
    value: float | None = None
    spread: float | None = None
    seeds: int = 0
    sources: Sources = NONE
    against: Sources = NONE
    pairing: Literal["difference", "ratio"] = "difference"
    scale: float = 100.0


def mean_entry(
    sources: Sources, form: str, scale: float = 100.0, *, spread: bool = False, absent: str = ""
) -> Entry:
    """Return the mean of values.

    Args:
        sources: the values; without any, ``absent`` stands in their place.
        form: how a number is written.
        scale: what it is written times.
        spread: whether the sample standard deviation stands behind it.
        absent: why there is none.
    """
    if not sources:
        return Entry(absent, "absent") if absent else Entry("")
    mean, std = mean_std(sources.values)
    text = form.format(scale * mean)
    if spread and std is not None:
        text += f" ± {form.format(scale * std)}"
    return Entry(text, value=mean, spread=std, seeds=len(sources), sources=sources, scale=scale)


@dataclass(frozen=True)
class Table:
    """A table of one dataset under one protocol.

    Attributes:
        name: study and dataset, for labels and files.
        heading: one line above.
        columns: headings; the first names the rows.
        rows: row name and its entries, one per further column.
        caption: protocol, seeds, device, date, commit.
        notes: remarks and conclusions below.
        breaks: a rule stands above these rows.
        dataset: its name; empty if the table is about several.
        protocol: of the records.
        bundle: in words, if all of it is not corrected fidelity and the common recipe.
    """

    name: str
    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    caption: str
    notes: tuple[str, ...] = field(default=())
    breaks: tuple[int, ...] = ()
    bundle: str = ""
    dataset: str = ""
    protocol: str = ""
