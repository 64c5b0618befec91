"""Which records fill which row of a study's table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from mmbench.cell import canonical
from mmbench.report.study import Row, Study, load_study, study_names


def is_row(frame: pd.DataFrame, row: Row) -> pd.Series:
    """Say which records belong to ``row``: the method with these options changed and no others."""
    mask = (frame["method"] == row.method) & (frame["options"] == canonical(row.set))
    if row.fidelity:
        mask &= frame["fidelity"] == row.fidelity
    if row.preset:
        mask &= frame["preset"] == row.preset
    return mask


def varied(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records a study is about.

    One that turns a data set's knob has only that set, and the others leave it to that study.
    """
    if study.vary:
        return frame[frame["dataset"].isin(study.datasets)]
    if study.rows == "found":
        return frame
    every = [load_study(name) for name in study_names()]
    knobs = {name for other in every if other.vary for name in other.datasets}
    return frame[~frame["dataset"].isin(knobs - set(study.datasets))]


def unaffected(frame: pd.DataFrame, part: pd.DataFrame) -> pd.DataFrame:
    """Return the plain records of methods for which the bundle of ``part`` changes nothing."""
    first = part.iloc[0]
    plain = frame[
        (frame["dataset"] == first["dataset"]) & (frame["protocol"] == first["protocol"])
        & (frame["place"] == first["place"])
        & (frame["fidelity"] == "corrected") & (frame["preset"] == "common")
    ]  # fmt: skip
    names = [n for n, plainly in ((first["fidelity"], "corrected"), (first["preset"], "common"))
             if n != plainly]  # fmt: skip
    covered = [bool(names) and set(names) <= set(same) for same in plain["unaffected"]]
    chosen: pd.DataFrame = plain.loc[covered]
    return chosen


def found(frame: pd.DataFrame) -> tuple[Row, ...]:
    """Return a row for every method and set of options with a record."""
    rows = []
    pairs = frame[["method", "options"]].drop_duplicates().sort_values(["method", "options"])
    for method, options in pairs.itertuples(index=False):
        changed = json.loads(options)
        words = ", ".join(f"{k}={v}" for k, v in changed.items())
        rows.append(Row(method=method, name=f"{method} ({words})" if words else None, set=changed))
    return tuple(rows)


Scores = dict[tuple[str, str, str], dict[int, float]]


@dataclass(frozen=True)
class Shown:
    """A row to fill: its name, its records, and its method."""

    name: str
    records: pd.DataFrame
    method: str

    @cached_property
    def scores(self) -> Scores:
        """Every value, by (at, prediction, metric) and seed."""
        return scores_of(self.records)

    def values(self, prediction: str, metric: str, at: str = "selected") -> dict[int, float]:
        """Return one value by seed; none if there is no such score."""
        return self.scores.get((at, prediction, metric), {})


def scores_of(records: pd.DataFrame) -> Scores:
    """Return the values of records of one row, by (at, prediction, metric) and seed."""
    found: Scores = {}
    columns = records[["at", "prediction", "metric", "seed", "value"]].dropna(subset="value")
    for at, prediction, metric, seed, value in columns.itertuples(index=False):
        found.setdefault((at, prediction, metric), {})[int(seed)] = float(value)
    return found


def shown_rows(rows: Sequence[Row], part: pd.DataFrame, task: Mapping[str, object]) -> list[Shown]:
    """Return the rows in the study's order; a method without any record gets one."""
    shown: list[Shown] = []
    modalities = list(task["modalities"])  # type: ignore[call-overload]  # a list of text
    for row in rows:
        own = part[is_row(part, row)]
        order = {f"{row.method}-{m}": i for i, m in enumerate(modalities)}
        found = sorted(own["label"].unique(), key=lambda x, o=order: (o.get(x, len(o)), x))  # type: ignore[misc]  # bound
        for label in found or [row.method]:
            name = row.name if row.name and len(found) < 2 else label
            mark = " †" if own["remark"].notna().any() else ""
            shown.append(Shown(name + mark, own[own["label"] == label], row.method))
    return shown


@dataclass(frozen=True)
class Group:
    """What stands in one table.

    Attributes:
        rows: to be filled, in order.
        records: all of them.
        task: modalities and metrics of the data set.
        stated: whether each row says its own fidelity and recipe.
    """

    rows: tuple[Shown, ...]
    records: pd.DataFrame
    task: Mapping[str, object]
    stated: bool = False

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.records["dataset"].iloc[0])

    @property
    def title(self) -> str:
        """The data set, what was changed around the methods, and the bundle."""
        return f"{self.place}, {self.bundle}" if self.bundle else self.place

    @property
    def place(self) -> str:
        """The data set, and what was changed around the methods."""
        around = str(self.records["around"].iloc[0])
        return f"{self.dataset} ({around})" if around else self.dataset

    def option(self, key: str) -> Any:  # Any: whatever the data set's config holds
        """Return one option of the data set."""
        return json.loads(str(self.records["data"].iloc[0])).get(key)

    @property
    def bundle(self) -> str:
        """What all rows share beyond the plain method and recipe, in words."""
        if self.stated:
            return ""
        first = self.records.iloc[0]
        words = [
            *(["released fidelity"] if first["fidelity"] == "released" else []),
            *(["authors' recipes"] if first["preset"] == "authors" else []),
        ]
        return ", ".join(words)

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities, in order."""
        return list(self.task["modalities"])  # type: ignore[call-overload, no-any-return]  # a list of text


def groups(
    study: Study, frame: pd.DataFrame, tasks: Mapping[str, dict[str, object]]
) -> Iterator[Group]:
    """Yield one group per data set, protocol, bundle and setting; nothing is mixed."""
    frame = varied(study, frame)
    rows = found(frame) if study.rows == "found" else study.rows
    frame = frame[pd.concat([is_row(frame, row) for row in rows], axis=1).any(axis=1)]
    stated = any(row.fidelity or row.preset for row in rows)
    keys = ["dataset", "protocol", "place"]
    keys += [] if stated else ["fidelity", "preset", "recipe"]
    for key, part in frame.groupby(keys, sort=True):
        task = tasks.get(str(key[0]))
        if task is not None:
            whole = part if stated else pd.concat([part, unaffected(frame, part)])
            yield Group(tuple(shown_rows(rows, whole, task)), whole, task, stated)
