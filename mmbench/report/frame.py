"""Records as a wide frame: one row per record, one column per score.

A score's column is ``at/prediction/metric``: ``selected/fused/accuracy`` is the test accuracy of
the fused prediction at the selected epoch, ``end/NAME/shapley`` a modality's share. Wide, because
a table then asks for whole columns, and a hundred thousand records stay small.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmbench.cell import Cell, canonical, digest
from mmbench.record import Record

COLUMNS = (
    "record", "dataset", "method", "label", "options", "seed", "protocol", "fidelity",
    "preset", "unaffected", "place", "around", "beside", "data", "single", "recipe", "status",
    "reason", "remark", "device", "way", "commit", "clean", "date", "started", "finished", "apart",
    "task", "file", "absent", "absent_class", "tested", "epochs", "lr",
)  # fmt: skip
COST = ("seconds", "deviation", "whole", "throughput", "memory", "parameters", "resumed")


# What of a cell may differ between two records of it that only the code sets apart.
BESIDE = {"label", "changed", "unaffected", "method_version", "sources"}


def column(prediction: str, metric: str, at: str = "selected") -> str:
    """Return the name of a score's column."""
    return f"{at}/{prediction}/{metric}"


def options_of(changed: Mapping[str, Any]) -> str:
    """Return the changed options of a method as one text: equal texts, equal options."""
    return canonical(
        {k.removeprefix("method."): v for k, v in changed.items() if k.startswith("method.")}
    )


def _beside(cell: Cell) -> dict[str, Any]:  # Any: as in row_of
    """Return the changed settings that are not the method's."""
    return {k: v for k, v in sorted(cell.changed.items()) if not k.startswith("method.")}


def _place(cell: Cell) -> str:
    """Return what two cells must share to stand in one table, the recipe apart."""
    data = [cell.dataset_version, cell.dataset_config, cell.split_hash, cell.encoders]
    return digest([*data, _beside(cell)])


def _single(record: Record) -> str | None:
    """Return the modality of a model that was given one of several, else None."""
    used = list(record.imbalance.probe)
    return used[0] if len(used) == 1 < len(record.task.get("modalities", [])) else None


def _scores(record: Record) -> dict[str, float]:
    found = {  # of the last epoch no table says anything
        column(prediction, metric): value
        for prediction, values in record.final.get("selected", {}).items()
        for metric, value in values.items()
    }
    for metric in ("shapley", "probe"):
        shares: Mapping[str, float] = getattr(record.imbalance, metric)
        found |= {column(m, metric, "end"): value for m, value in shares.items()}
    return found


def _cost(record: Record) -> dict[str, Any]:  # Any: numbers, a word, or nothing
    if not (record.timing and record.memory and record.parameters):
        return dict.fromkeys(COST)
    return {
        "seconds": record.timing.epoch_mean,
        "deviation": record.timing.epoch_std,
        "whole": record.timing.total,
        "throughput": record.timing.samples_per_second,
        "memory": float(record.memory.peak_bytes),
        "parameters": float(record.parameters.total),
        "resumed": float(record.timing.resumed),
    }


def row_of(record: Record) -> dict[str, Any]:  # Any: text, numbers, or nothing
    """Return the frame's row of one record; a refused or failed one has no score."""
    cell, where = record.cell, record.environment
    beside = _beside(cell)
    return {
        "record": cell.folder,
        "dataset": cell.dataset,
        "method": cell.method,
        "label": cell.label,
        "options": options_of(cell.changed),
        "seed": cell.seed,
        "protocol": cell.protocol,
        "fidelity": cell.fidelity,
        "preset": cell.preset,
        "unaffected": ",".join(cell.unaffected),
        "place": _place(cell),
        "around": ", ".join(f"{k.removeprefix('dataset.')}={v}" for k, v in beside.items()),
        "beside": canonical(beside),
        "data": canonical(cell.dataset_config),
        "single": _single(record),
        "recipe": digest(cell.trainer.model_dump()) if cell.preset == "common" else "authors",
        "status": record.status,
        "reason": record.reason or (record.failure.message if record.failure else None),
        "remark": record.remark,
        "device": where.hardware,
        "way": where.way,
        "commit": where.commit,
        "clean": where.clean,
        "date": record.finished[:10],
        "started": record.started,
        "finished": record.finished,
        "apart": digest(cell.model_dump(mode="json", exclude=BESIDE)),
        "task": json.dumps(record.task) if record.task else None,
        "absent": float(record.data.absent.get("test", 0)) if record.data else None,
        "absent_class": "left-out",
        "tested": float(record.data.sizes["test"]) if record.data else None,
        "epochs": float(cell.trainer.epochs),
        "lr": cell.trainer.lr,
        **_cost(record),
        **_scores(record),
    }


def as_frame(
    rows: Sequence[Mapping[str, Any]],  # Any: as in row_of
    extra: Sequence[str] = (),
) -> pd.DataFrame:
    """Return the frame of rows, with every column that a report asks for, and ``extra``."""
    frame = pd.DataFrame(list(rows))
    first = [*COLUMNS, *COST, *extra]
    return plain(frame.reindex(columns=[*first, *sorted({*frame} - {*first})]).items())


def plain(columns: Iterable[tuple[Any, pd.Series]]) -> pd.DataFrame:  # Any: as pandas says
    """Return the frame of named columns, taken one at a time, with its text as objects.

    Taking rows of it is then several times as fast, and no table needs a copy of a column.
    """
    return pd.DataFrame({name: _shared(each) for name, each in columns}, copy=False)


def _shared(each: pd.Series) -> pd.Series:
    """Return a column of text with equal texts as one object, None where there is none."""
    if not (pd.api.types.is_string_dtype(each.dtype) or each.dtype == "category"):
        return each
    codes, distinct = pd.factorize(each)
    found = np.array([*distinct, None], object)[codes]
    return pd.Series(found, each.index, dtype=object)  # unasked, pandas 3 makes text of it again


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the frame of records."""
    return as_frame([row_of(record) for record in records])


def absent_as_zero(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with MAP counting the classes without a test sample as 0.

    MAP is the mean over the classes that occur (methods.md section 0.6), so that this is a factor.
    """
    if not frame["absent"].gt(0).any():
        return frame
    counted = frame.assign(absent_class="zero")
    classes = counted["task"].map(lambda task: json.loads(task)["classes"] if task else 1)
    share = 1 - counted["absent"].fillna(0) / classes
    for name in map(str, counted):
        if name.endswith("/map"):
            counted[name] = counted[name] * share
    return counted


def tasks_of(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:  # Any: JSON values
    """Return modalities and metrics of every dataset that was trained on."""
    known = frame[["dataset", "task"]].dropna().drop_duplicates("dataset", keep="last")
    return {str(r.dataset): json.loads(str(r.task)) for r in known.itertuples()}
