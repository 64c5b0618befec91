"""Figures of a study from its pooled scores: differences, ranks, methods by dataset, sweeps."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmbench.report.cost import Point, comparable, points
from mmbench.report.drawing import COLOURS, line_style, new_figure, save, styled
from mmbench.report.pooling import Pooled
from mmbench.report.rows import Group, unmarked
from mmbench.report.statistics import FEW_DATASETS, cliques, critical_difference
from mmbench.report.study import Study
from mmbench.report.summary import mean_std
from mmbench.report.training import strength

LETTERS = 17  # of a title fit in an inch
SWEPT = re.compile(r"(?P<option>\w+) = (?P<value>-?\d+(\.\d+)?)")


def write_figures(pools: Sequence[Pooled], folder: Path) -> list[Path]:
    """Write the figures that a study's pools can fill, bundles apart; return the files."""
    files = []
    with styled():
        for pool in pools:
            if pool.bundle[1:] not in (("corrected", "common"), ("stated", "stated")):
                continue  # their tables are enough; more figures would bury the main ones
            tag = "" if pool.bundle[0] == "validated" else f"-{pool.bundle[0]}"
            drawn = {"sweep": sweep(pool), "knob": knob(pool), "forest": forest(pool)}
            if drawn["sweep"] is None and len(pool.datasets) > 1 and len(pool.scores) > 2:
                drawn["heat"] = heat(pool)
                if pool.independent > 1:  # ranks over settings of one dataset would say nothing
                    drawn["ranks"] = rank_diagram(pool)
            for kind, figure in drawn.items():
                if figure is not None:
                    files += save(figure, folder, f"{pool.study}-{kind}{tag}")
    return files


def write_strength(
    study: Study, groups: Sequence[Group], files: Mapping[str, Path], folder: Path
) -> list[Path]:
    """Write the modalities over training of each dataset, if the study names rows to draw."""
    written = []
    with styled():
        for group in groups if study.strength else ():
            figure = strength(study, group, files)
            if figure is not None:
                tag = "" if group.protocol == "validated" else f"-{group.protocol}"
                name = re.sub(r"[^\w.=]+", "-", group.place).strip("-")
                written += save(figure, folder, f"{study.name}-strength-{name}{tag}")
    return written


def write_cost(study: Study, groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write score against cost, a panel for each dataset and device."""
    plain = [g for g in groups if not g.bundle and g.protocol == "validated"]
    found = points(study, plain)
    if not found:
        return []
    with styled():
        warned = "" if comparable(plain) else "\nTIMES NOT COMPARABLE: see the tables"
        figure = cost(study.title + warned, study.baselines[0], found)
        return save(figure, folder, f"{study.name}-cost")


def cost(title: str, reference: str, found: Mapping[str, Sequence[Point]]) -> Figure:
    """Draw the score of every row against its time; a row looks the same in every panel."""
    names = list(dict.fromkeys(unmarked(p.name) for rows in found.values() for p in rows))
    figure = new_figure(1.6 + 2.7 * len(found), max(2.8, 0.9 + 0.19 * len(names)))
    figure.suptitle(title, fontsize=8)
    shown: dict[str, Any] = {}  # Any: containers, which the stubs do not take for artists
    for number, (where, rows) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), number + 1)
        axes.axvline(1, color="0.5", lw=0.8, ls="--")
        for point in rows:
            i = names.index(unmarked(point.name))
            style = line_style(i) | {"linestyle": "none"}
            fill = "white" if i >= len(COLOURS) else style["color"]  # the colours come round again
            shown[names[i]] = axes.errorbar(
                point.ratio, point.score, point.spread, **style, mfc=fill, ms=5, elinewidth=0.6
            )
        axes.set_xlabel(f"time of a whole run, relative to {reference}")
        axes.set_title(where, fontsize=8)
        if number == 0:
            axes.set_ylabel("primary metric (%), mean ± sd")
    ordered = [name for name in names if name in shown]
    figure.legend([shown[n] for n in ordered], ordered, loc="outside right center", fontsize=7)
    return figure


def _titled(figure: Figure, pool: Pooled, warning: str = "") -> None:
    """Write above a figure what it shows, in lines that are no longer than it is wide."""
    rule = "" if pool.bundle[0] == "validated" else " (EPOCH SELECTED ON TEST)"
    lines = [pool.title, f"protocol {pool.bundle[0]}{rule}; {pool.place}", warning]
    wide = int(figure.get_figwidth() * LETTERS)
    text = "\n".join(wrapped for line in lines if line for wrapped in wrap(line, wide))
    figure.suptitle(text, fontsize=8, x=0.01, ha="left")


def forest(pool: Pooled) -> Figure | None:
    """Draw each row's difference to the reference with its 95 % bootstrap interval."""
    compared = pool.comparisons
    if not compared:
        return None
    figure = new_figure(5.6, 1.3 + 0.2 * len(compared))
    axes = figure.add_subplot()
    for y, found in enumerate(compared):
        sure = found.adjusted < 0.05
        colour = COLOURS[1] if sure else COLOURS[0]
        axes.plot([100 * found.low, 100 * found.high], [y, y], color=colour, lw=1.5)
        axes.plot(100 * found.mean, y, "o", color=colour, mfc=colour if sure else "white", ms=5)
    axes.axvline(0, color="0.5", lw=0.8, ls="--", zorder=0)
    _rows(axes, [c.name for c in compared])
    # The same in digits: one far row would make the marks of all others one.
    said = axes.secondary_yaxis("right")
    said.set_yticks(
        range(len(compared)),
        [f"{100 * c.mean:+z.2f}  ({100 * c.low:+z.2f} to {100 * c.high:+z.2f})" for c in compared],
    )
    said.tick_params(length=0, labelsize=7)
    said.spines["right"].set_visible(False)
    axes.set_xlabel(
        f"points above {pool.reference}, 95 % bootstrap interval\nfilled: p < 0.05 after Holm"
    )
    _titled(figure, pool)
    return figure


def _rows(axes: Axes, names: Sequence[str], below: float = 0.0) -> None:
    """Name the rows, the first on top, with room for ``below`` more under the last."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4 + below, -0.6)


def heat(pool: Pooled) -> Figure:
    """Draw methods by datasets; colour: points above the dataset's median, text: the score."""
    rows = list(pool.scores)
    means = 100 * np.array([[np.mean(list(e.values())) for e in pool.scores[r]] for r in rows])
    centred = means - np.median(means, axis=0)
    # One row far from the others must not take all colour from them.
    limit = float(np.quantile(np.abs(centred), 0.9)) or float(np.abs(centred).max()) or 1.0
    figure = new_figure(2.6 + 0.9 * len(pool.datasets), 1.5 + 0.2 * len(rows))
    axes = figure.add_subplot()
    image = axes.imshow(centred, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for y, x in np.ndindex(means.shape):
        dark = abs(centred[y, x]) > 0.65 * limit
        colour = "white" if dark else "black"
        axes.text(x, y, f"{means[y, x]:.1f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(
        range(len(pool.datasets)),
        ["\n".join(wrap(p, 11, break_on_hyphens=True)) for p in pool.short],
        fontsize=7,
    )
    axes.set_yticks(range(len(rows)), rows)
    past = [bool((centred < -limit).any()), bool((centred > limit).any())]
    ends: Any = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(
        (past[0], past[1]), "neither"
    )  # Any: a literal to the stubs
    figure.colorbar(image, label="points above\nthe dataset's median", extend=ends)
    _titled(figure, pool)
    return figure


def rank_diagram(pool: Pooled) -> Figure:
    """Draw mean ranks with bars over groups within the critical difference (Demsar 2006)."""
    names, ranks = list(pool.scores), pool.ranks()
    width = critical_difference(len(names), len(pool.datasets))
    order = sorted(range(len(names)), key=lambda i: ranks[i])
    groups = cliques(ranks.tolist(), width)
    figure = new_figure(5.0, 1.3 + 0.19 * len(names) + 0.12 * len(groups))
    axes = figure.add_subplot()
    for y, i in enumerate(order):
        axes.plot([1, ranks[i]], [y, y], color="0.8", lw=0.8, zorder=1)
        axes.plot(ranks[i], y, "o", color=COLOURS[0], zorder=2, clip_on=False)
    for level, group in enumerate(groups):
        height = len(names) + 0.6 * level
        ends = [min(ranks[i] for i in group), max(ranks[i] for i in group)]
        axes.plot(ends, [height, height], color="black", lw=3, solid_capstyle="butt")
    _rows(axes, [f"{names[i]} ({ranks[i]:.2f})" for i in order], 0.6 * len(groups) + 0.2)
    axes.set_xlim(0.8, len(names) + 0.2)
    few = "" if len(pool.datasets) > FEW_DATASETS else (
        f"WARNING: {len(pool.datasets)} datasets are too few for this to mean much"
    )  # fmt: skip
    axes.set_xlabel(f"mean rank, 1 is best\nbars: within the critical difference {width:.2f}")
    _titled(figure, pool, few)
    return figure


def sweep(pool: Pooled) -> Figure | None:
    """Draw rows named ``OPTION = NUMBER`` as a curve per dataset, baselines as level lines.

    Returns:
        None if the study has fewer than three such rows.
    """
    found = {row: match for row in pool.scores if (match := SWEPT.fullmatch(row))}
    if len(found) < 3:
        return None
    x = [float(match["value"]) for match in found.values()]
    figure = new_figure(max(3.2, 2.9 * len(pool.datasets)), 2.7)
    _titled(figure, pool)
    for number, dataset in enumerate(pool.datasets):
        axes = figure.add_subplot(1, len(pool.datasets), number + 1)
        moments = [mean_std([100 * v for v in pool.scores[r][number].values()]) for r in found]
        mean = np.array([m for m, _ in moments])
        spread = np.array([s or 0.0 for _, s in moments])
        axes.fill_between(x, mean - spread, mean + spread, color=COLOURS[0], alpha=0.2, lw=0)
        axes.plot(x, mean, **line_style(0), ms=3)
        for i, row in enumerate(pool.baselines):
            level = 100 * float(np.mean(list(pool.scores[row][number].values())))
            axes.axhline(level, color=COLOURS[1 + i], ls="--", lw=1, label=row)
        axes.set_xlabel(next(iter(found.values()))["option"])
        axes.set_title(dataset, fontsize=8)
        if number == 0:
            axes.set_ylabel("primary metric (%), mean ± sd")
            if pool.baselines:
                axes.legend(fontsize=7)
    return figure


def knob(pool: Pooled) -> Figure | None:
    """Draw each row's gain over the first baseline against the dataset's option that is turned.

    Returns:
        None if the study turns none, or only one value of it has records.
    """
    if pool.knob is None or len(pool.datasets) < 2 or not pool.baselines:
        return None
    (name, x), base = pool.knob, pool.baselines[0]
    figure = new_figure(4.6, 3.2)
    axes = figure.add_subplot()
    for number, row in enumerate(r for r in pool.scores if r != base):
        gains = []
        for own, other in zip(pool.scores[row], pool.scores[base], strict=True):
            gains.append(
                mean_std([100 * (own[s] - other[s]) for s in sorted(set(own) & set(other))])
            )
        mean, spread = np.array([m for m, _ in gains]), np.array([s or 0.0 for _, s in gains])
        style = line_style(number)
        aside = (number - (len(pool.scores) - 2) / 2) * 0.012 * (x[-1] - x[0])  # bars side by side
        axes.errorbar([v + aside for v in x], mean, spread, **style, ms=3, lw=1.2, label=row,
                      elinewidth=0.6)  # fmt: skip
    if pool.ceilings:
        means = [100 * float(np.mean(list(each.values()))) for each in pool.scores[base]]
        room = [100 * best - mean for best, mean in zip(pool.ceilings, means, strict=True)]
        axes.plot(x, room, color="0.5", lw=1, ls=":", label="best possible")
    axes.axhline(0, color="0.5", lw=0.8, ls="--")
    axes.set_xlabel(f"{name} of the dataset")
    axes.set_ylabel(f"points above {base}, mean ± sd")
    axes.legend(fontsize=7, ncols=2)
    _titled(figure, pool)
    return figure
