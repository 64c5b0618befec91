"""The report as one HTML file that needs nothing beside it and no network."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from mmbench.errors import UserError
from mmbench.folders import hindrance
from mmbench.record import Record
from mmbench.report.scores import TITLES
from mmbench.report.study import load_study
from mmbench.report.table import Entry, Sources, Table
from mmbench.report.titles import FIGURES, KINDS, PAGE, figure_kind
from mmbench.store import read_record, write_atomic

CURVES = 2000  # records; the curves of more would make a page of tens of megabytes


@dataclass
class Numbers:
    """The records behind the page's numbers, each listed once.

    Attributes:
        records: name of every record, and its place in the list.
        numbers: per number its records, those it was compared with, its scale, and how.
    """

    records: dict[str, int] = field(default_factory=dict)
    numbers: list[list[Any]] = field(default_factory=list)  # Any: lists, and a number

    def add(self, entry: Entry) -> int | None:
        """Note the records of an entry; return the place of the number, None without any."""
        if not entry.sources:
            return None
        both = [self._listed(entry.sources), self._listed(entry.against)]
        self.numbers.append([*both, entry.scale, entry.pairing])
        return len(self.numbers) - 1

    def _listed(self, sources: Sources) -> list[list[float]]:
        return [
            [self.records.setdefault(s.record, len(self.records)), s.seed, round(s.value, 6)]
            for s in sources
        ]


def write_page(
    file: Path,
    tables: Mapping[str, Mapping[str, Sequence[Table]]],
    figures: Sequence[Path],
    files: Mapping[str, Path],
) -> Path:
    """Write the page.

    Args:
        file: where to.
        tables: by study and kind of table.
        figures: those of the report; the SVG among them are shown.
        files: the file of every record, by the record's name.

    Raises:
        UserError: if it cannot be written.
    """
    numbers = Numbers()
    studies = [_study(name, kinds, figures, numbers) for name, kinds in tables.items()]
    every = [t for kinds in tables.values() for part in kinds.values() for t in part]
    shown = [read_record(files[name]) for name in numbers.records]
    data = {
        "curve": "primary metric on the split that selects the epoch, in percent",
        "numbers": numbers.numbers,
        "records": [_record(record, len(shown) <= CURVES) for record in shown],
    }
    folder = resources.files("mmbench.report") / "template"
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (folder / "page.html.j2").read_text(encoding="utf-8")
    )
    text = template.render(
        title="Benchmark report",
        summary=_summary(shown),
        datasets=sorted({t.dataset for t in every if t.dataset}),
        metrics=[m for m in TITLES.values() if any(m in t.columns for t in every)],
        protocols=sorted({t.protocol for t in every if t.protocol}),
        studies=studies,
        footer=f"{PAGE}; nothing is loaded from elsewhere."
        + ("" if len(shown) <= CURVES else f" Curves are left out of a page of over {CURVES}"
           " records; --study NAME makes a smaller one."),
        style=(folder / "page.css").read_text(encoding="utf-8"),
        script=(folder / "page.js").read_text(encoding="utf-8"),
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    )  # fmt: skip
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, text.encode())
    except OSError as err:
        raise UserError(f"cannot write the page {file}: {hindrance(file.parent, err)}") from err
    return file


def _study(
    name: str, kinds: Mapping[str, Sequence[Table]], figures: Sequence[Path], numbers: Numbers
) -> dict[str, Any]:  # Any: what the template shows
    """Return a study as the template takes it; scores of the plain bundle are open."""
    parts = []
    whole = load_study(name).title
    for kind, tables in kinds.items():
        plain = [_sheet(t, whole, numbers) for t in tables if kind == "" and not t.bundle]
        folded = [_sheet(t, whole, numbers) for t in tables if kind != "" or t.bundle]
        title = KINDS[kind] if kind else "Released fidelity, and the authors' recipes"
        parts += [{"folded": False, "title": title, "tables": plain}] if plain else []
        parts += [{"folded": True, "title": title, "tables": folded}] if folded else []
    own = [f for f in figures if f.suffix == ".svg" and figure_kind(f, name)]
    return {
        "name": name,
        "title": whole,
        "parts": parts,
        "figures": [
            {"source": _embedded(f), "text": f"{whole}: {FIGURES[str(figure_kind(f, name))]}"}
            for f in own
        ],
    }


def _embedded(file: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(file.read_bytes()).decode()


def _sheet(table: Table, title: str, numbers: Numbers) -> dict[str, Any]:  # Any: as above
    rows = [
        {
            "name": name,
            "ruled": place in table.breaks,
            "cells": [
                {"column": column, "style": e.style, "text": e.text, "value": e.value,
                 "number": numbers.add(e)}
                for column, e in zip(table.columns[1:], entries, strict=True)
            ],
        }
        for place, (name, entries) in enumerate(table.rows)
    ]  # fmt: skip
    return {
        "dataset": table.dataset, "protocol": table.protocol,
        "heading": table.heading.removeprefix(f"{title}: "),
        "columns": table.columns, "rows": rows, "caption": table.caption, "notes": table.notes,
    }  # fmt: skip


def _summary(records: Sequence[Record]) -> str:
    dates = sorted(r.finished[:10] for r in records)
    if not dates:
        return "No record has a score yet."
    devices = sorted({r.environment.hardware for r in records})
    between = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    return (
        f"{len(records)} records of {between} on {', '.join(devices)}. Every number opens the "
        "records behind it: their curves, options and commit. Headings sort."
    )


def _record(record: Record, curve: bool) -> dict[str, Any]:  # Any: JSON values
    shown = {
        "name": record.cell.folder,
        "date": record.finished,
        "device": record.environment.hardware,
        "commit": str(record.environment.commit or "unknown")[:10],
        "clean": record.environment.clean is True,
        "seconds": record.timing.epoch_mean if record.timing else None,
        "command": f"mmbench reproduce {record.cell_id}",
        "config": record.cell.model_dump(mode="json", exclude={"changed", "unaffected", "label"}),
    }
    metric = record.task.get("primary")
    epochs = [row.val or row.test for row in record.curve] if curve else []
    if epochs and metric:
        names = list(epochs[0])
        shown["curve"] = {
            name: [round(e[name][metric], 4) if metric in e.get(name, {}) else None for e in epochs]
            for name in names
        }
    return shown
