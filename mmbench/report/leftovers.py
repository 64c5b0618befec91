"""Files that an earlier report wrote and the present records do not make: they are removed.

What mmbench wrote has the name that a study's tables and figures have, and the mark of a report or,
a figure, of Matplotlib without the date that it writes unless told; other files are someone's own.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from mmbench.errors import UserError
from mmbench.report.render import FORMS
from mmbench.report.titles import KINDS, PAGE, figure_kind, stem


def remove(
    results: Path,
    kept: Collection[Path],
    *,
    tables: Collection[str],
    figures: Collection[str],
    changed: bool,
) -> list[Path]:
    """Remove what earlier reports left, and return it.

    Args:
        results: the results folder.
        kept: what this report wrote.
        tables: studies whose tables are all among it.
        figures: studies whose earlier figures are out of date.
        changed: whether a table says something else than before, so that an earlier page is out
            of date.

    Raises:
        UserError: if something cannot be removed.
    """
    gone = [
        file
        for file in (*_tables(results / "tables", tables), *_figures(results / "figures", figures))
        if file not in kept
    ]
    page = results / "report.html"
    if (changed or gone) and page not in kept and _holds(page, PAGE.encode()):
        gone.append(page)
    for file in gone:
        try:
            file.unlink(missing_ok=True)
        except OSError as err:
            raise UserError(f"cannot remove {file}, of an earlier report: {err.strerror}") from err
    return gone


def _tables(folder: Path, studies: Iterable[str]) -> Iterator[Path]:
    for study in studies:
        for kind in KINDS:
            for suffix, form in FORMS.items():
                file = folder / f"{stem(study, kind)}.{suffix}"
                if _holds(file, form.head.encode()):
                    yield file


def _figures(folder: Path, studies: Iterable[str]) -> Iterator[Path]:
    files = sorted([*folder.glob("*.svg"), *folder.glob("*.pdf")])
    for study in studies:
        for file in files:
            kind, rest = figure_kind(file, study), file.stem.removeprefix(f"{study}-")
            named = kind == "strength" or rest in (kind, f"{kind}-published")
            if kind and named and _holds(file, b"Matplotlib") and not _dated(file):
                yield file


def _dated(file: Path) -> bool:
    data = file.read_bytes()
    return b"<dc:date>" in data or b"/CreationDate" in data


def _holds(file: Path, mark: bytes) -> bool:
    return file.is_file() and mark in file.read_bytes()
