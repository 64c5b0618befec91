"""A table before it is rendered: text, and which entries are best and second."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Style = Literal["plain", "best", "second", "absent", "cited"]


class Source(NamedTuple):
    """One value behind a number, the record that holds it, and its column in the frame."""

    seed: int
    record: str
    value: float
    key: str


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
        against: the records whose values were taken away first, paired by seed.
        scale: what ``value`` is shown times: a share in percent.
    """

    text: str
    style: Style = "plain"
    value: float | None = None
    spread: float | None = None
    seeds: int = 0
    sources: tuple[Source, ...] = ()
    against: tuple[Source, ...] = ()
    scale: float = 100.0


@dataclass(frozen=True)
class Table:
    """A table of one data set under one protocol.

    Attributes:
        name: study and data set, for labels and files.
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
