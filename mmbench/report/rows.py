"""Which records fill which row of a study's table."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.cell import canonical
from mmbench.report.frame import column
from mmbench.report.study import Row, Study, load_study, study_names
from mmbench.report.table import NONE, Sources
from mmbench.settings import as_typed

MARK = " †"  # behind a name of which something is remarked


def unmarked(name: str) -> str:
    """Return the name of a row without its mark."""
    return name.removesuffix(MARK)


def members(rows: Sequence[Row], frame: pd.DataFrame) -> list[NDArray[np.bool_]]:
    """Say per row which records belong to it: its method with its options changed and no others."""
    keys = {text: _numbers_alike(text) for text in frame["options"].unique()}
    same = frame.groupby(["method", frame["options"].map(keys)]).indices
    masks = []
    for row in rows:
        mask = np.zeros(len(frame), bool)
        mask[same.get((row.method, _numbers_alike(canonical(row.set))), [])] = True
        for key, wanted in (("fidelity", row.fidelity), ("preset", row.preset)):
            if wanted:
                mask &= (frame[key] == wanted).to_numpy(bool)
        masks.append(mask)
    return masks


def _numbers_alike(text: str) -> str:
    """Return JSON with every number as a float: a study may say 1 where a record has 1.0."""
    return canonical(json.loads(text, parse_int=float))


def concerns(study: Study, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which records a study is about.

    One that turns a dataset's knob has only that set, one with settings only what was run with
    them, and the others leave both to it.
    """
    if study.rows == "found":
        return np.ones(len(frame), bool)
    if study.vary:
        return frame["dataset"].isin(study.datasets).to_numpy(bool)
    if study.settings:
        return _with(study.settings, frame)
    about = np.ones(len(frame), bool)
    for other in (load_study(name) for name in study_names()):
        if other.vary and not {*other.datasets} <= {*study.datasets}:
            about &= ~frame["dataset"].isin(other.datasets).to_numpy(bool)
        if other.settings:
            about &= ~_with(other.settings, frame)
    return about


def _with(settings: Mapping[str, object], frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which records were run with all of these settings, and maybe others."""
    each = {text: json.loads(text) for text in frame["beside"].unique()}
    held = [text for text, beside in each.items() if settings.items() <= beside.items()]
    return frame["beside"].isin(held).to_numpy(bool)


def untold(frame: pd.DataFrame) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return, by dataset and settings in words, the dataset's options that differ without a word.

    Those of a user's own table do: its contents, and what else it was prepared with.
    """
    by_words: dict[tuple[str, str], list[dict[str, object]]] = {}
    seen = frame[["dataset", "around", "data"]].drop_duplicates()
    for dataset, around, data in seen.itertuples(index=False):
        by_words.setdefault((dataset, around), []).append(json.loads(data))
    return {
        words: tuple(
            key
            for key, value in configs[0].items()
            if all(key in each for each in configs) and any(each[key] != value for each in configs)
        )
        for words, configs in by_words.items()
    }


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


def _taken(columns: Columns, key: str, where: Positions) -> list[Any]:  # Any: text or numbers
    found: list[Any] = columns[key][where].tolist()
    return found


@dataclass(frozen=True)
class Shown:
    """A row to fill: its name, where its records stand in the columns, and its method."""

    name: str
    columns: Columns
    where: Positions
    method: str

    def column(self, key: str) -> list[Any]:  # Any: text or numbers
        """Return one column of the row's records."""
        return _taken(self.columns, key, self.where)

    def sources(self, prediction: str, metric: str, at: str = "selected") -> Sources:
        """Return one score of every record that has it, in order of the seeds."""
        return self.stored(column(prediction, metric, at))

    def stored(self, key: str) -> Sources:
        """Return one column of numbers of every record that has it, in order of the seeds."""
        if key not in self.columns:
            return NONE
        where, seeds, records = self._by_seed
        values = self.columns[key][where].tolist()
        if all(v == v for v in values) and len({*seeds}) == len(seeds):
            return Sources(key, seeds, records, values)
        found = {s: (s, r, v) for s, r, v in zip(seeds, records, values, strict=True) if v == v}
        return Sources(key, *map(list, zip(*found.values(), strict=True))) if found else NONE

    @cached_property
    def _by_seed(self) -> tuple[Positions, list[int], list[str]]:
        """The row's records in order of the seeds: where they stand, seeds and names."""
        where = self.where[np.argsort(self.columns["seed"][self.where], kind="stable")]
        return where, _taken(self.columns, "seed", where), _taken(self.columns, "record", where)

    def distinct(self, key: str) -> tuple[Any, ...]:  # Any: text or numbers
        """Return the values that one column of the row's records has, sorted."""
        return tuple(sorted(set(self.column(key))))

    def values(self, prediction: str, metric: str) -> dict[int, float]:
        """Return one value by seed; none if there is no such score."""
        return self.sources(prediction, metric).by_seed


def shown_rows(
    rows: Sequence[Row],
    masks: Sequence[NDArray[np.bool_]],
    columns: Columns,
    where: Positions,
    task: Mapping[str, object],
) -> list[Shown]:
    """Return the rows in the study's order; a method without a record in the table gets one.

    Args:
        rows: of the study.
        masks: per row, which of all records belong to it.
        columns: all records.
        where: those of one table.
        task: of its dataset.
    """
    shown: list[Shown] = []
    modalities = list(task["modalities"])  # type: ignore[call-overload]  # a list of text
    for row, mask in zip(rows, masks, strict=True):
        own = where[mask[where]]
        labels = columns["label"][own]
        order = {f"{row.method}-{m}": i for i, m in enumerate(modalities)}
        found = sorted(set(labels), key=lambda x, o=order: (o.get(x, len(o)), x))  # type: ignore[misc]  # bound
        mark = MARK if any(isinstance(each, str) for each in columns["remark"][own]) else ""
        for label in found or [row.method]:
            name = row.name if row.name and len(found) < 2 else label
            shown.append(Shown(name + mark, columns, own[labels == label], row.method))
    return shown


@dataclass(frozen=True)
class Group:
    """What stands in one table.

    Attributes:
        rows: to be filled, in order.
        columns: all records.
        where: those of this table, at least one.
        task: modalities and metrics of the dataset.
        stated: whether each row says its own fidelity and recipe.
        knob: the option of the dataset that the study turns, if any.
        unrun: names of the study's rows without any record here, whatever the fidelity and recipe.
        apart: in words, what else sets it apart from another table of the dataset and settings.
    """

    rows: tuple[Shown, ...]
    columns: Columns
    where: Positions
    task: Mapping[str, object]
    stated: bool = False
    knob: str = ""
    unrun: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()

    def column(self, key: str) -> list[Any]:  # Any: text or numbers
        """Return one column of the table's records."""
        return _taken(self.columns, key, self.where)

    def first(self, key: str) -> Any:  # Any: as above
        """Return what the first record has, for a column in which all are alike."""
        return self.columns[key][self.where[0]]

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return str(self.first("dataset"))

    @property
    def protocol(self) -> str:
        """How the epoch was selected."""
        return str(self.first("protocol"))

    @property
    def title(self) -> str:
        """The dataset, what was changed around the methods, and the bundle."""
        return f"{self.place}, {self.bundle}" if self.bundle else self.place

    @property
    def place(self) -> str:
        """The dataset, and what was changed around the methods."""
        return f"{self.dataset} ({self.around})" if self.around else self.dataset

    @property
    def around(self) -> str:
        """What was changed around the methods, in words, and the knob at whatever value."""
        said = ", ".join(filter(None, [str(self.first("around")), *self.apart]))
        usual = self.knob and f"{self.knob}=" not in said
        return ", ".join(filter(None, [f"{self.knob}={self.turned:g}" if usual else "", said]))

    @property
    def turned(self) -> float:
        """The value of the knob; infinite where the dataset has none or it is no number."""
        value = self.option(self.knob)
        return float(value) if isinstance(value, int | float) else math.inf

    @property
    def slug(self) -> str:
        """The title for names of tables and files, and the protocol if it is not the usual."""
        text = re.sub(r"[^\w.=]+", "-", self.title.replace("'", "")).strip("-")
        return text if self.protocol == "validated" else f"{text}-{self.protocol}"

    def option(self, key: str) -> Any:  # Any: whatever the dataset's config holds
        """Return one option of the dataset."""
        return json.loads(str(self.first("data"))).get(key)

    @property
    def bundle(self) -> str:
        """What all rows share beyond the plain method and recipe, in words."""
        if self.stated:
            return ""
        words = [
            *(["released fidelity"] if self.first("fidelity") == "released" else []),
            *(["authors' recipes"] if self.first("preset") == "authors" else []),
        ]
        return ", ".join(words)

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities, in order."""
        return list(self.task["modalities"])  # type: ignore[call-overload, no-any-return]  # a list of text


def groups(
    study: Study, frame: pd.DataFrame, tasks: Mapping[str, dict[str, object]]
) -> Iterator[Group]:
    """Yield one group per dataset, protocol, bundle and setting; nothing is mixed.

    A study that turns a dataset's knob has them in the order of its values.
    """
    found = _groups(study, frame, tasks)
    knob = next((key.partition(".")[2] for key in study.vary if key.startswith("dataset.")), "")
    if not knob:
        yield from found
        return
    turned = [replace(group, knob=knob) for group in found]
    yield from sorted(turned, key=lambda group: (group.dataset, group.bundle, group.turned))


def _groups(
    study: Study, frame: pd.DataFrame, tasks: Mapping[str, dict[str, object]]
) -> Iterator[Group]:
    about = concerns(study, frame)
    rows = found(frame.loc[about, ["method", "options"]]) if study.rows == "found" else study.rows
    masks = members(rows, frame)
    columns = {str(name): frame[name].to_numpy() for name in frame}
    wide, about = about, about & np.logical_or.reduce(masks)
    stated = any(row.fidelity or row.preset for row in rows)
    special = [mask for row, mask in zip(rows, masks, strict=True) if row.set]
    asked = np.logical_or.reduce(special) if special and study.rows != "found" else about
    keys = ["dataset", "protocol", "around", "place"]
    bundles = [] if stated else ["fidelity", "preset", "recipe"]
    both = (columns["fidelity"] == "corrected") & (columns["preset"] == "common")
    plain = dict(_places(frame, about & both, keys))
    everything = dict(_places(frame, wide, keys))
    loose = members([row.loose for row in rows], frame) if stated else masks
    differing = untold(frame)
    for key, where in _places(frame, about, [*keys, *bundles]):
        task = _task(columns, where) or tasks.get(str(key[0]))
        if task is None or not asked[where].any():
            continue  # never trained, or nothing of what the study is about
        if not stated:
            beside = _unaffected(columns, plain.get(key[:4], where[:0]), key[4:6])
            where = np.concatenate([where, beside])
        run = [bool(mask[everything[key[:4]]].any()) for mask in loose]
        shown = shown_rows([*compress(rows, run)], [*compress(masks, run)], columns, where, task)
        unrun = (row.shown for row, has in zip(rows, run, strict=True) if not has)
        data = json.loads(str(columns["data"][where[0]]))
        apart = tuple(f"{option}={as_typed(data[option])}" for option in differing[key[0], key[2]])
        yield Group(tuple(shown), columns, where, task, stated, unrun=tuple(unrun), apart=apart)


def _task(columns: Columns, where: Positions) -> Mapping[str, object] | None:
    """Return what these records were trained on, if one was: options may choose modalities."""
    known = (task for task in columns["task"][where] if isinstance(task, str))
    return next(map(json.loads, known), None)


def _places(
    frame: pd.DataFrame, among: NDArray[np.bool_], keys: list[str]
) -> list[tuple[tuple[str, ...], Positions]]:
    """Return where the records stand that share these columns, sorted by them, the plain first."""
    positions = np.flatnonzero(among)
    alike: dict[Any, Any] = frame[keys].iloc[positions].groupby(keys).indices  # Any: stubs say so
    return [(key, positions[alike[key]]) for key in sorted(alike, key=_plain_first)]


def _plain_first(key: tuple[str, ...]) -> tuple[object, ...]:
    """Return what sorts tables by dataset, and within it the usual before the rest."""
    dataset, *rest = key
    return dataset, *((word not in ("validated", "corrected", "common"), word) for word in rest)


def _unaffected(columns: Columns, plain: Positions, bundle: tuple[str, ...]) -> Positions:
    """Return those of the plain records whose method the bundle leaves as it is."""
    names = set(bundle) - {"corrected", "common"}
    same = [bool(names) and names <= {*each.split(",")} for each in columns["unaffected"][plain]]
    chosen: Positions = plain[np.array(same, bool)]
    return chosen
