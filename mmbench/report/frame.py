"""Records as a tidy frame: one row per cell, prediction and metric."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from mmbench.record import Record

COLUMNS = (
    "dataset", "method", "label", "seed", "protocol", "fidelity", "preset", "settings", "status",
    "reason", "remark", "device", "commit", "clean", "date", "at", "prediction", "metric", "value",
)  # fmt: skip


def _settings(record: Record) -> str:
    """Return what tells cells of one row apart but for the seed."""
    from mmbench.cell import digest

    cell = record.cell.model_dump(mode="json", exclude={"seed", "label", "method_config", "method"})
    return digest({k: v for k, v in cell.items() if k not in {"protocol", "fidelity", "preset"}})


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
            "settings": _settings(record),
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
    return pd.DataFrame(rows, columns=list(COLUMNS))
