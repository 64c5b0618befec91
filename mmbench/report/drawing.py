"""How figures look and how they are written: the same bytes for the same numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmbench.errors import UserError
from mmbench.folders import hindrance
from mmbench.store import write_atomic

# Okabe and Ito's palette (2008): told apart with every common colour blindness. Markers and
# dashes tell the lines apart in grey print as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "svg.hashsalt": "mmbench",  # else the ids in an SVG change with every run
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the house style, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]  # keys are literals to the stubs
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches; no window system is touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_style(number: int) -> dict[str, Any]:  # Any: matplotlib's keyword arguments
    """Return colour, marker and dash of the ``number``-th line."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
    }


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``figure`` as SVG and PDF without dates; return the files.

    Raises:
        UserError: if they cannot be written.
    """
    written = []
    for suffix, undated in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
        held = BytesIO()
        figure.savefig(held, format=suffix, metadata=undated)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / f"{name}.{suffix}", held.getvalue())
        except OSError as err:
            why = hindrance(folder, err)
            raise UserError(f"cannot write the figures to {folder}: {why}") from err
        written.append(folder / f"{name}.{suffix}")
    return written
