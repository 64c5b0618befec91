"""How the modalities fare over training: their accuracy, their gradients, what the method logs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmbench.record import EpochRow, Record
from mmbench.report.drawing import line_style, new_figure
from mmbench.report.rows import Group, Shown, unmarked
from mmbench.report.study import Study
from mmbench.store import read_record

ACROSS = 5  # rows of a study side by side; more begin again below
MOST = 20  # rows of a study in one figure; more could not be read

Curves = Mapping[str, Sequence[Sequence[float]]]  # line -> runs -> epochs


def strength(study: Study, group: Group, files: Mapping[str, Path]) -> Figure | None:
    """Draw the rows that ``study.strength`` names side by side, one quantity below the other.

    Returns:
        None if none of them was trained on this dataset, or more than ``MOST``.
    """
    rows = [r for r in group.rows if _is_drawn(r, study)]
    if len(rows) > MOST:
        return None
    found = {row.name: _records(row, files) for row in rows}
    found = {name: records for name, records in found.items() if records}
    if not found:
        return None
    metric = str(group.task["primary"])
    panels: list[tuple[str, dict[str, Curves]]] = [
        (f"{metric} (%)", {n: _curves(r, lambda e: _scores(e, metric)) for n, r in found.items()}),
        ("gradient norm", {n: _curves(r, lambda e: e.gradient_norm) for n, r in found.items()}),
    ]
    for key in study.logged:
        logged = {n: _curves(r, lambda e, k=key: _logged(e, k)) for n, r in found.items()}  # type: ignore[misc]  # bound
        panels += [(key, logged)] if any(logged.values()) else []
    return _draw(f"{study.title}: {group.title}", list(found), panels)


def _is_drawn(row: Shown, study: Study) -> bool:
    return study.strength == "all" or unmarked(row.name) in study.strength


def _records(row: Shown, files: Mapping[str, Path]) -> list[Record]:
    names = [s.record for s in row.stored("seconds")]
    return [record for record in (read_record(files[n]) for n in names) if record.curve]


def _curves(records: Sequence[Record], read: Callable[[EpochRow], Mapping[str, float]]) -> Curves:
    """Return what ``read`` gives of every epoch, by line; runs of another length are cut."""
    length = min(len(r.curve) for r in records)
    runs = [[read(epoch) for epoch in r.curve[:length]] for r in records]
    lines = dict.fromkeys(name for run in runs for epoch in run for name in epoch)
    return {n: [[epoch.get(n, np.nan) for epoch in run] for run in runs] for n in lines}


def _scores(epoch: EpochRow, metric: str) -> dict[str, float]:
    metrics = epoch.val or epoch.test
    return {name: 100 * values[metric] for name, values in metrics.items() if metric in values}


def _logged(epoch: EpochRow, key: str) -> dict[str, float]:
    """Return what was logged as ``key/NAME``, by name."""
    return {n.removeprefix(f"{key}/"): v for n, v in epoch.train.items() if n.startswith(f"{key}/")}


def _draw(
    title: str, names: Sequence[str], panels: Sequence[tuple[str, dict[str, Curves]]]
) -> Figure:
    across, blocks = min(len(names), ACROSS), -(-len(names) // ACROSS)
    high = blocks * len(panels)
    figure = new_figure(max(3.4, 2.5 * across), 0.6 + 1.6 * high)
    grid = figure.subplots(high, across, sharex=True, sharey="row", squeeze=False)
    known = ["fused"] + [n for _, by_row in panels for c in by_row.values() for n in c]
    styles = {n: line_style(i) for i, n in enumerate(dict.fromkeys(known))}
    for number, name in enumerate(names):
        block, x = divmod(number, across)
        for y, (label, by_row) in enumerate(panels, block * len(panels)):
            _lines(grid[y][x], by_row.get(name, {}), styles)
            if x == 0:
                grid[y][x].set_ylabel(label)
            if y == block * len(panels):
                grid[y][x].set_title(name, fontsize=8)
        if number + across >= len(names):  # nothing stands below
            grid[y][x].set_xlabel("epoch")
            grid[y][x].tick_params(labelbottom=True)
    for axes in grid.flat[(blocks - 1) * len(panels) * across :]:
        axes.set_visible(bool(axes.lines or axes.texts))
    for one_quantity in (grid[y :: len(panels), 0] for y in range(len(panels)) if blocks > 1):
        limits = np.array([axes.get_ylim() for axes in one_quantity])
        for axes in one_quantity:
            axes.set_ylim(limits.min(), limits.max())
    shown = {line.get_label(): line for axes in grid.flat for line in axes.lines}
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=min(5, len(shown))
    )
    figure.suptitle(f"{title}\nmean and range over runs", fontsize=8)
    return figure


def _lines(axes: Axes, curves: Curves, styles: Mapping[str, dict[str, Any]]) -> None:
    # Any: matplotlib's keyword arguments
    if not curves:
        axes.text(0.5, 0.5, "logs none", transform=axes.transAxes, ha="center", color="0.5")
    for name, runs in curves.items():
        values = np.array(runs)
        epochs = np.arange(1, values.shape[1] + 1)
        style = styles[name]
        axes.fill_between(
            epochs, values.min(0), values.max(0), color=style["color"], alpha=0.15, lw=0
        )
        every = max(1, len(epochs) // 6)
        axes.plot(epochs, values.mean(0), **style, lw=1.2, ms=3, markevery=every, label=name)
