"""Published numbers beside ours: never in one column, and never styled alike."""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

from mmbench.errors import UserError
from mmbench.report.rows import Group, unmarked
from mmbench.report.scores import RULES, TITLES
from mmbench.report.study import Study
from mmbench.report.table import NONE, Entry, Sources, Table, mean_entry

HEADER = ["table", "dataset", "method", "metric", "value", "std", "note"]
WIDEST = 2  # scores side by side; more would not fit a page, and get a row each
WORDS = ("published", "ours", "ours − published")
SECONDS = "seconds_per_epoch"
SCORE = re.compile(r"(?P<metric>accuracy|map|macro_f1|seconds_per_epoch)(\[(?P<prediction>\w+)\])?")


@dataclass(frozen=True)
class Number:
    """One published number.

    Attributes:
        study: the comparison it stands in.
        dataset: name of the dataset.
        method: name of the row.
        prediction: ``fused`` or a modality.
        metric: name of the metric.
        value: in percent or seconds, as printed; None where the source has none.
        source: the file it was read from, without its ending.
        std: its standard deviation, where one is printed.
        note: what the source leaves open.
    """

    study: str
    dataset: str
    method: str
    prediction: str
    metric: str
    value: float | None
    source: str
    std: float | None = None
    note: str = ""


def load_published(folder: Path) -> list[Number]:
    """Read all published scores and seconds, and what is said of them.

    Raises:
        UserError: if a file has other columns, or a value that is not a percentage.
    """
    numbers = []
    for file in sorted(folder.glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            if reader.fieldnames != HEADER:
                raise UserError(
                    f"{file} has the columns {reader.fieldnames}; give it {', '.join(HEADER)}"
                )
            for row in reader:
                score = SCORE.fullmatch(row["metric"])
                if score:
                    where = f"{file}, line {reader.line_num}"
                    numbers.append(_number(row, score, where, file.stem))
    return numbers


def _within(text: str, most: float, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:  # NaN fails as well
        what = "a percentage; write a number from 0 to 100" if most < math.inf else (
            "a time; write a number of seconds")  # fmt: skip
        raise UserError(f"{where}: {text!r} is not {what}")
    return value


def _number(row: Mapping[str, str], score: re.Match[str], where: str, source: str) -> Number:
    prediction = score["prediction"] or "multi"
    most = math.inf if score["metric"] == SECONDS else 100.0
    return Number(
        row["table"].replace("_", "-"), row["dataset"], row["method"].replace("_", "-"),
        "fused" if prediction == "multi" else prediction, score["metric"],
        _within(row["value"], most, where) if row["value"] or not row["note"] else None, source,
        _within(row["std"], most, where) if row["std"] else None, row["note"],
    )  # fmt: skip


def published_tables(
    study: Study, groups: Iterable[Group], numbers: Sequence[Number]
) -> list[Table]:
    """Return one table per dataset with published numbers, and protocol and bundle of ours.

    A dataset on which nothing was run gets a table in which ours is missing.
    """
    found = list(groups)
    tables: list[Table] = []
    mine = [n for n in numbers if n.study == study.name and n.metric != SECONDS]
    for dataset in dict.fromkeys(n.dataset for n in mine):
        cited = [n for n in mine if n.dataset == dataset]
        ours: list[Group | None] = [group for group in found if group.dataset == dataset]
        tables += [_table(study, cited, group) for group in ours or [None]]
    return tables


def _table(study: Study, cited: Sequence[Number], group: Group | None) -> Table:
    asked = list(dict.fromkeys((n.prediction, n.metric) for n in cited))
    titles = [_title(prediction, metric) for prediction, metric in asked]
    wide = len(asked) <= WIDEST
    named = {} if group is None else {unmarked(r.name): r for r in group.rows}
    shown = shown_names(study)
    rows = []
    for method in dict.fromkeys(n.method for n in cited):
        name = shown.get(method, method)
        triples = []
        for prediction, metric in asked:
            key = (method, prediction, metric)
            printed = [n.value for n in cited if (n.method, n.prediction, n.metric) == key]
            own = named[name].sources(prediction, metric) if name in named else NONE
            triples.append(score_triple(printed[0] if printed else None, own))
        if wide:
            rows.append((name, tuple(chain.from_iterable(triples))))
        else:
            rows += [(f"{name}: {t}", tuple(e)) for t, e in zip(titles, triples, strict=True)]
    return Table(
        name=f"{study.name}-published-{group.slug if group else cited[0].dataset}",
        heading=f"{study.title}: {group.title if group else cited[0].dataset}, "
        "published beside measured",
        columns=("Method", *([f"{t}, {w}" for t in titles for w in WORDS] if wide else WORDS)),
        rows=tuple(rows),
        caption=_caption(cited, group),
        notes=(*told(cited, shown), set_against(rows)),
        bundle="" if group is None else group.bundle,
        dataset=cited[0].dataset,
        protocol="" if group is None else group.protocol,
    )  # fmt: skip


def told(cited: Sequence[Number], shown: Mapping[str, str]) -> Iterator[str]:
    """Yield each note on the numbers with the rows that it is about."""
    everyone = dict.fromkeys(number.method for number in cited)
    for note in dict.fromkeys(number.note for number in cited if number.note):
        rows = dict.fromkeys(number.method for number in cited if number.note == note)
        names = "all rows" if rows == everyone else ", ".join(shown.get(row, row) for row in rows)
        yield f"Published, {names}: {note}."


def set_against(rows: Iterable[tuple[str, tuple[Entry, ...]]]) -> str:
    """Say in one sentence what ours beside the published tells, from the differences alone."""
    gaps = [
        after.value
        for _, entries in rows
        for before, after in pairwise(entries)
        if before.sources and after.value is not None and not after.sources
    ]
    if not gaps:
        return "What may be concluded: nothing about the published numbers; none was measured here."
    above, mean = sum(gap > 0 for gap in gaps), 100 * math.fsum(gaps) / len(gaps)
    return (
        f"What may be concluded: where there are both, ours is above the published number in "
        f"{above} of {len(gaps)}, and {mean:+z.2f} points from it in the mean; data, encoders and "
        "protocol may differ, so that a difference alone shows no error in either."
    )


def _title(prediction: str, metric: str) -> str:
    title = TITLES.get(metric, metric)
    return title if prediction == "fused" else f"{title}, {prediction} alone"


def shown_names(study: Study) -> dict[str, str]:
    """Return what the study calls its rows that have another name among the published ones."""
    return {
        row.published: row.name or row.method
        for row in study.rows
        if not isinstance(row, str) and row.published
    }


def score_triple(printed: float | None, own: Sources) -> list[Entry]:
    """Return the published score, in percent, ours, and the difference."""
    cited = Entry("") if printed is None else Entry(f"{printed:.2f}", "cited", printed / 100)
    ours = mean_entry(own, "{:.2f}", spread=True, absent="missing")
    if ours.value is None or printed is None:
        return [cited, ours, Entry("")]
    gap = Entry(f"{100 * ours.value - printed:+z.2f}", value=ours.value - printed / 100)
    return [cited, ours, gap]


def _caption(cited: Sequence[Number], group: Group | None) -> str:
    sources = ", ".join(sorted({n.source for n in cited}))
    words = (
        f"Columns “published”, in italics: as printed ({sources}; see results/published), in "
        "percent, not measured here. "
    )
    if group is None:
        return words + "Ours: nothing was run on this dataset."
    return words + (
        "Columns “ours”: mean ± sample standard deviation over seeds, protocol "
        f"{group.protocol}: {RULES[group.protocol]}, {group.first('fidelity')} fidelity, "
        f"{group.first('preset')} preset{f', with {group.around}' if group.around else ''}."
    )
