"""Which records fill which row of a study's table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.cell import canonical
from mmbench.report.frame import column
from mmbench.report.study import Row, Study, load_study, study_names
from mmbench.report.table import Source


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


def found(frame: pd.DataFrame) -> tuple[Row, ...]:
    """Return a row for every method and set of options with a record."""
    rows = []
    pairs = frame[["method", "options"]].drop_duplicates().sort_values(["method", "options"])
    for method, options in pairs.itertuples(index=False):
        changed = json.loads(options)
        words = ", ".join(f"{k}={v}" for k, v in changed.items())
        rows.append(Row(method=method, name=f"{method} ({words})" if words else None, set=changed))
    return tuple(rows)


Columns = Mapping[str, NDArray[Any]]  # of a frame, by name; far quicker to take rows of
Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Shown:
    """A row to fill: its name, where its records stand in the columns, and its method."""

    name: str
    columns: Columns
    where: Positions
    method: str

    def column(self, key: str) -> list[Any]:  # Any: text or numbers
        """Return one column of the row's records."""
        found: list[Any] = self.columns[key][self.where].tolist()
        return found

    def sources(self, prediction: str, metric: str, at: str = "selected") -> tuple[Source, ...]:
        """Return one score of every record that has it, in order of the seeds."""
        return self.stored(column(prediction, metric, at))

    def stored(self, key: str) -> tuple[Source, ...]:
        """Return one column of numbers of every record that has it, in order of the seeds."""
        if key not in self.columns:
            return ()
        rows = zip(*map(self.column, ("seed", "record", key)), strict=True)
        found = {s: Source(s, r, v, key) for s, r, v in rows if v == v}  # not NaN
        return tuple(found[seed] for seed in sorted(found))

    def values(self, prediction: str, metric: str, at: str = "selected") -> dict[int, float]:
        """Return one value by seed; none if there is no such score."""
        return {s.seed: s.value for s in self.sources(prediction, metric, at)}


def shown_rows(
    rows: Sequence[Row],
    masks: Sequence[NDArray[np.bool_]],
    columns: Columns,
    where: Positions,
    task: Mapping[str, object],
) -> list[Shown]:
    """Return the rows in the study's order; a method without any record gets one.

    Args:
        rows: of the study.
        masks: per row, which of all records belong to it.
        columns: all records.
        where: those of one table.
        task: of its data set.
    """
    shown: list[Shown] = []
    modalities = list(task["modalities"])  # type: ignore[call-overload]  # a list of text
    for row, mask in zip(rows, masks, strict=True):
        own = where[mask[where]]
        labels = columns["label"][own]
        order = {f"{row.method}-{m}": i for i, m in enumerate(modalities)}
        found = sorted(set(labels), key=lambda x, o=order: (o.get(x, len(o)), x))  # type: ignore[misc]  # bound
        mark = " †" if any(isinstance(each, str) for each in columns["remark"][own]) else ""
        for label in found or [row.method]:
            name = row.name if row.name and len(found) < 2 else label
            shown.append(Shown(name + mark, columns, own[labels == label], row.method))
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
    def protocol(self) -> str:
        """How the epoch was selected."""
        return str(self.records["protocol"].iloc[0])

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
    masks = [is_row(frame, row).to_numpy(bool) for row in rows]
    columns = {str(name): frame[name].to_numpy() for name in frame}
    stated = any(row.fidelity or row.preset for row in rows)
    keys = ["dataset", "protocol", "place"]
    bundles = [] if stated else ["fidelity", "preset", "recipe"]
    plain = _plain(frame, keys)
    for key, where in _places(frame, [*keys, *bundles]):
        task = tasks.get(str(key[0]))
        if task is None:
            continue
        if not stated:
            beside = _unaffected(columns, plain.get(key[:3], where[:0]), key[3:5])
            where = np.concatenate([where, beside])
        shown = shown_rows(rows, masks, columns, where, task)
        yield Group(tuple(shown), frame.iloc[where], task, stated)


def _places(frame: pd.DataFrame, keys: list[str]) -> list[tuple[tuple[str, ...], Positions]]:
    """Return where the records stand that share these columns, sorted by them."""
    found: dict[Any, Any] = dict(frame.groupby(keys).indices)  # Any: its stubs say Hashable
    return sorted(found.items())


def _plain(frame: pd.DataFrame, keys: list[str]) -> dict[tuple[str, ...], Positions]:
    """Return where the records without a bundle stand, by what a table must share."""
    both = (frame["fidelity"] == "corrected") & (frame["preset"] == "common")
    positions = np.flatnonzero(both.to_numpy(bool))
    return {key: positions[where] for key, where in _places(frame.iloc[positions], keys)}


def _unaffected(columns: Columns, plain: Positions, bundle: tuple[str, ...]) -> Positions:
    """Return those of the plain records whose method the bundle leaves as it is."""
    names = set(bundle) - {"corrected", "common"}
    same = [bool(names) and names <= {*each.split(",")} for each in columns["unaffected"][plain]]
    chosen: Positions = plain[np.array(same, bool)]
    return chosen
