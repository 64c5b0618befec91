"""How the scripts of ``benchmarks/`` read their command line, show their tables, and end."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mmbench.errors import MMBenchError, UserError
from mmbench.registry import METHODS
from mmbench.report.render import fill, has_place

Number = TypeVar("Number", int, float)
Shapes = tuple[tuple[int, ...], tuple[int, ...], int]  # audio, visual, samples per step
FORMS = {"audio": ("C,H,W", "spectrogram"), "visual": ("C,K,H,W", "frames")}


def _read(text: str, kind: type[Number], fits: Callable[[Number], bool], wanted: str) -> Number:
    """Return a number that fits; argparse prints the error with the name of the option."""
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not fits(number):
        raise argparse.ArgumentTypeError(f"wants {wanted}; found {text!r}")
    return number


def how_many_from(least: int) -> Callable[[str], int]:
    """Return what reads how many there are, of which at least so many."""
    return lambda text: _read(
        text, int, lambda n: n >= least, f"a whole number of at least {least}"
    )


how_many = how_many_from(1)


def positive(text: str) -> float:
    """Read a finite number above 0."""
    return _read(text, float, lambda x: 0 < x < float("inf"), "a number above 0")


def share(text: str) -> float:
    """Read a part of a whole: above 0, at most 1."""
    return _read(text, float, lambda x: 0 < x <= 1, "a number above 0 and at most 1")


def counts(text: str) -> tuple[int, ...]:
    """Read ``8,32``."""
    return tuple(map(how_many, text.split(",")))


def shape(form: str) -> Callable[[str], tuple[int, ...]]:
    """Return what reads a shape of as many sizes as ``form``, such as ``C,H,W``, has names."""

    def read(text: str) -> tuple[int, ...]:
        if text.count(",") != form.count(","):
            raise argparse.ArgumentTypeError(f"wants {form}; found {text!r}")
        return counts(text)

    return read


def new_file(text: str) -> Path:
    """Read the path of a file to write, in a folder that is there."""
    file = Path(text)
    if file.is_dir() or not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"wants a file in a folder that is there; found {text!r}")
    return file


SHARED: Mapping[str, Mapping[str, Any]] = {  # Any: what add_argument takes
    "--into": {
        "type": Path, "metavar": "PAGE",
        "help": "also put the table between its two marks in this file (default: print it only)",
    },
    "--markdown": {
        "type": new_file, "metavar": "FILE",
        "help": "also write the page, replacing the file (default: print it only)",
    },
    "--device": {
        "default": "auto", "help": "cpu, mps, cuda or cuda:N (default: a GPU if there is one)"
    },
}  # fmt: skip


def parser(doc: str | None, *shared: str) -> argparse.ArgumentParser:
    """Return a parser whose help begins with ``doc``, with those of the `SHARED` options."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in shared:
        made.add_argument(name, **SHARED[name])
    return made


def add_shapes(to: argparse.ArgumentParser, usual: Shapes, on_cpu: Shapes | None = None) -> None:
    """Add ``--audio`` and ``--visual``; they stay None where a CPU has defaults of its own."""
    each = [shapes[:2] for shapes in (usual, on_cpu or usual)]
    for at, (name, (form, what)) in enumerate(FORMS.items()):
        here, there = (",".join(map(str, shapes[at])) for shapes in each)
        said = here if on_cpu is None else f"{here} on a GPU, {there} elsewhere"
        to.add_argument(
            f"--{name}", type=shape(form), metavar=form, default=None if on_cpu else usual[at],
            help=f"shape of the {what} (default: {said})",
        )  # fmt: skip


def method_names(text: str) -> list[str]:
    """Return the methods of ``a,b`` or ``all``.

    Raises:
        UserError: if there is none of such a name.
    """
    names = METHODS.names() if text == "all" else text.split(",")
    for name in names:
        METHODS.load(name)
    return names


@dataclass(frozen=True)
class Page:
    """Where a table goes: printed, and between ``<!-- NAME -->`` and ``<!-- /NAME -->`` of a file.

    The file is looked at here, before minutes of measuring.

    Raises:
        UserError: if the file cannot be written or has no such marks.
    """

    file: Path | None
    name: str

    def __post_init__(self) -> None:
        if self.file is None:
            return
        marks = f"the line <!-- {self.name} --> and, below it, <!-- /{self.name} -->"
        try:
            self.file.open("r+").close()
            found = has_place(self.file, self.name)
        except OSError as err:
            raise UserError(
                f"cannot put the table into {self.file}: {err.strerror}; name a file with {marks}"
            ) from err
        if not found:
            raise UserError(f"{self.file} has no place for the table; put {marks} into it")

    def show(self, text: str) -> None:
        """Print ``text``, and fill the place with it."""
        print(text, end="")
        if self.file is not None:
            fill(self.file, self.name, text)


def table(columns: Mapping[str, str], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table.

    Args:
        columns: heading -> ``l``, ``r`` or ``c``.
        rows: one text per column.
    """
    marks = {"l": ":--", "r": "--:", "c": ":-:"}
    lines = [list(columns), [marks[side] for side in columns.values()], *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def script(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark's ``main`` and end; a user's mistake with exit code 2, and no traceback."""
    try:
        sys.exit(main())
    except MMBenchError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(2 if isinstance(err, UserError) else 1)
