"""All tables and figures on one Markdown page, so that the documents type no number by hand."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmbench.errors import UserError
from mmbench.folders import hindrance
from mmbench.report.render import GENERATED, markdown
from mmbench.report.study import as_typed, load_study
from mmbench.report.table import Table
from mmbench.report.titles import FIGURES, KINDS, figure_kind
from mmbench.store import write_atomic

INTRODUCTION = (
    "What the records in `{folder}` say, study by study: the scores, then the figures, and "
    "folded below them what else was computed. Tables of released fidelity and of the authors' "
    "recipes are in the files of `results/tables/`; what the words mean is in "
    "[report.md](report.md), and `mmbench explain` traces a number to its records."
)


def write_document(
    file: Path,
    tables: Mapping[str, Mapping[str, Sequence[Table]]],
    figures: Sequence[Path],
    records: Path,
) -> Path:
    """Write the page.

    Args:
        file: where to.
        tables: by study and kind of table.
        figures: those of the report; the SVG among them are shown, by their place from ``file``.
        records: the folder that was read.

    Raises:
        UserError: if it cannot be written.
    """
    folder = "/".join(records.parts[-2:])
    parts = ["# Results", f"<!-- {GENERATED} -->", INTRODUCTION.format(folder=folder)]
    for study, kinds in tables.items():
        parts += _study(study, kinds, figures, file.parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, ("\n\n".join(parts) + "\n").encode())
    except OSError as err:
        raise UserError(f"cannot write the page {file}: {hindrance(file.parent, err)}") from err
    return file


def _study(
    name: str, kinds: Mapping[str, Sequence[Table]], figures: Sequence[Path], beside: Path
) -> Iterator[str]:
    title = load_study(name).title
    yield f"## {title}"
    yield f"`mmbench run --study {as_typed(name)}`"
    if scores := _plain(kinds.get("", ())):
        yield scores
    for figure in figures:
        kind = figure_kind(figure, name)
        if kind and figure.suffix == ".svg":
            yield f"![{title}: {FIGURES[kind]}]({Path(os.path.relpath(figure, beside)).as_posix()})"
    for kind, found in kinds.items():
        if kind and (text := _plain(found)):
            yield f"<details><summary>{KINDS[kind]}</summary>\n\n{text}\n\n</details>"


def _plain(tables: Sequence[Table]) -> str:
    """Return the tables of the plain bundle, without the line that says what made them."""
    plain = [table for table in tables if not table.bundle]
    return markdown(plain).split("\n\n", 1)[1].strip() if plain else ""
