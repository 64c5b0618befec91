"""Records as a tidy frame: one row per cell, prediction and metric."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from mmbench.cell import Cell, canonical, digest
from mmbench.record import Record

COLUMNS = (
    "dataset", "method", "label", "options", "seed", "protocol", "fidelity", "preset", "unaffected",
    "place", "around", "data", "single", "recipe", "status", "reason", "remark", "device", "commit",
    "clean", "date", "at", "prediction", "metric", "value",
)  # fmt: skip


def options_of(changed: Mapping[str, Any]) -> str:
    """Return the changed options of a method as one text: equal texts, equal options."""
    return canonical(
        {k.removeprefix("method."): v for k, v in changed.items() if k.startswith("method.")}
    )


def _around(cell: Cell) -> str:
    """Return the changed settings that are not the method's, in words."""
    changed = {k: v for k, v in sorted(cell.changed.items()) if not k.startswith("method.")}
    return ", ".join(f"{k.removeprefix('dataset.')}={v}" for k, v in changed.items())


def _place(cell: Cell) -> str:
    """Return what two cells must share to stand in one table, the recipe apart."""
    around = {k: v for k, v in cell.changed.items() if not k.startswith("method.")}
    data = [cell.dataset_version, cell.dataset_config, cell.split_hash, cell.encoders]
    return digest([*data, around])


def _single(record: Record) -> str | None:
    """Return the modality of a model that was given one of several, else None."""
    used = list(record.imbalance.probe)
    return used[0] if len(used) == 1 < len(record.task.get("modalities", [])) else None


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the frame; a refused or failed cell is one row without a value."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell, where = record.cell, record.environment
        common = {
            "dataset": cell.dataset,
            "method": cell.method,
            "label": cell.label,
            "seed": cell.seed,
            "protocol": cell.protocol,
            "fidelity": cell.fidelity,
            "preset": cell.preset,
            "options": options_of(cell.changed),
            "unaffected": cell.unaffected,
            "place": _place(cell),
            "around": _around(cell),
            "data": canonical(cell.dataset_config),
            "single": _single(record),
            "recipe": digest(cell.trainer.model_dump()) if cell.preset == "common" else "authors",
            "status": record.status,
            "reason": record.reason or (record.failure.message if record.failure else None),
            "remark": record.remark,
            "device": where.device_name,
            "commit": where.commit,
            "clean": where.clean,
            "date": record.finished[:10],
        }
        if record.status != "done":
            rows.append(common)
        rows.extend(
            {**common, "at": at, "prediction": prediction, "metric": metric, "value": value}
            for at, metrics in record.final.items()
            for prediction, values in metrics.items()
            for metric, value in values.items()
        )
        rows.extend(
            {**common, "at": "end", "prediction": m, "metric": metric, "value": value}
            for metric in ("shapley", "probe")
            for m, value in getattr(record.imbalance, metric).items()
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))
