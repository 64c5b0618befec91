"""Reading the user's table: rows, modalities, kinds, classes; every mistake by its place."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from mmbench.dataset import TAKEN, may_name
from mmbench.errors import UserError, nearest

OwnKind = Literal["audio", "image", "video", "array", "number", "text"]
IN_TABLE = frozenset({"number", "text"})  # kinds whose values stand in the table, not in files
SUFFIXES: dict[OwnKind, frozenset[str]] = {
    "audio": frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"}),
    "image": frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}),
    "video": frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".flv", ".mpg"}),
    "array": frozenset({".npy"}),
}
TABLES = frozenset({".csv", ".tsv", ".jsonl", ".parquet"})
META = ("label", "split", "group", "id")
SPLIT_NAMES = {"train": "train", "test": "test", "val": "val", "valid": "val", "dev": "val",
               "validation": "val"}  # fmt: skip
SHOWN = 10  # problems printed; the rest are counted
LONGEST_PATH = 4096  # characters; what is longer is text
LARGEST = 3.4e38  # float32 holds no more


@dataclass(frozen=True)
class Row:
    """One sample.

    Attributes:
        place: where it stands, e.g. ``my.csv, line 4``.
        values: per modality the file (as an absolute path), or the number or text itself.
        split: ``train``, ``val``, ``test``, or empty if the table does not say.
    """

    place: str
    id: str
    label: str
    split: str
    group: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """The whole table, checked.

    Attributes:
        kinds: per modality, in the order of the columns.
        classes: numbers in their order, else names in theirs.
    """

    file: Path
    kinds: Mapping[str, OwnKind]
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    grouped: bool


def read_table(
    file: Path, *, columns: Sequence[str] = (), kinds: Mapping[str, str] | None = None
) -> Table:
    """Read and check a table: ``label``, one column per modality; ``split``, ``group``, ``id``.

    Paths are taken from the folder of the table. A kind that is not stated follows from the
    suffixes of a column's values; values without a known suffix are numbers if all are, else text.

    Args:
        file: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
        columns: the columns to use as modalities, in this order; empty: all but label, split,
            group and id.
        kinds: stated kind per column.

    Raises:
        UserError: names the table, the line, the column and the file of up to ten mistakes.
    """
    raw = list(_raw_rows(file))
    if not raw:
        raise UserError(f"{file} has no rows; give it a header and one row per sample")
    header = list(raw[0][1])
    if "label" not in header:
        if len(header) == 1 and ";" in header[0]:
            raise UserError(
                f"{file} has no column 'label'; its columns are parted by semicolons: save the "
                "table with commas"
            )
        raise UserError(
            f"{file} has no column 'label'; its columns are {', '.join(header)}"
            f"{nearest('label', header)}"
        )
    modalities = list(columns) or [c for c in header if c not in META]
    _check_columns(file, modalities, header)
    stated = _check_kinds(kinds or {}, modalities)
    found = {m: stated.get(m) or _infer(file, m, raw) for m in modalities}
    problems: list[str] = []
    rows = [_row(file, place, values, found, header, problems) for place, values in raw]
    first: dict[str, str] = {}
    for row in rows:
        if row.id in first:
            problems.append(f"{row.place}: the id {row.id!r} is that of {first[row.id]} too")
        first.setdefault(row.id, row.place)
    _refuse(problems, file)
    classes = _classes(file, rows)
    if len(classes) < 2:
        raise UserError(f"{file} has the one label {classes[0]!r}; at least two are needed")
    return Table(file, found, classes, tuple(rows), "group" in header)


def _refuse(problems: Sequence[str], file: Path) -> None:
    if problems:
        more = len(problems) - SHOWN
        tail = f"\n  and {more} more" if more > 0 else ""
        listed = "".join(f"\n  {p}" for p in problems[:SHOWN])
        raise UserError(f"{file} cannot be used as it is; mend or remove these rows:{listed}{tail}")


def _raw_rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, values) of each row."""
    if not file.is_file():
        what = f"{file} is a folder" if file.is_dir() else f"there is no table {file}"
        raise UserError(f"{what}; give a .csv, .tsv, .jsonl or .parquet file")
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if file.suffix.lower() not in readers:
        raise UserError(
            f"cannot read {file} as a table: its suffix is {file.suffix or 'missing'}, and "
            f"{', '.join(sorted(TABLES))} are known"
        )
    try:
        yield from readers[file.suffix.lower()](file)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise UserError(f"cannot read the table {file}: {err}; save it as UTF-8 text") from err


def _csv(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    dialect = "excel-tab" if file.suffix.lower() == ".tsv" else "excel"
    with file.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, dialect)
        header = [name.strip() for name in next(reader, [])]
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise UserError(f"{file} has two columns called {twice[0]!r}; rename one")
        for cells in reader:
            if not any(cells):
                continue  # a blank line
            place = f"{file.name}, line {reader.line_num}"
            if len(cells) != len(header):
                why = "put a value that holds a comma between double quotes"
                if len(header) == 1 and ";" in header[0]:
                    why = "the columns are parted by semicolons: save the table with commas"
                raise UserError(f"{place}: {len(cells)} values for {len(header)} columns; {why}")
            yield place, dict(zip(header, (c.strip() for c in cells), strict=True))


def _jsonl(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    names: list[str] = []
    with file.open(encoding="utf-8-sig") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            place = f"{file.name}, line {number}"
            try:
                values = json.loads(line)
            except ValueError as err:
                raise UserError(f"{place}: not JSON ({err})") from err
            if not isinstance(values, dict):
                raise UserError(f"{place}: not a JSON object but a {type(values).__name__}")
            names = names or list(values)
            if sorted(values) != sorted(names):
                raise UserError(
                    f"{place}: keys {', '.join(values)}, while the first row has {', '.join(names)}"
                )
            yield place, {k: _text(values[k], place, k) for k in names}


def _parquet(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as err:
        raise UserError(
            "reading .parquet needs pyarrow: pip install 'mmbench[media]'; or save it as .csv"
        ) from err
    try:
        rows = parquet.read_table(file).to_pylist()
    except ArrowException as err:
        raise UserError(f"cannot read the table {file}: {err}") from err
    for number, values in enumerate(rows, 1):
        place = f"{file.name}, row {number}"
        yield place, {k: _text(v, place, k) for k, v in values.items()}


def _text(value: Any, place: str, column: str) -> str:  # Any: JSON values
    if value is None or value != value:  # NaN, which pandas writes where a value is missing
        return ""
    if isinstance(value, dict | list | bytes):
        raise UserError(
            f"{place}, column {column}: holds a {type(value).__name__}, not a text, a number or "
            "the path of a file; save what it holds as files, and their paths in the table"
        )
    return str(value).strip()


def _check_columns(file: Path, modalities: Sequence[str], header: Sequence[str]) -> None:
    for name in modalities:
        if name not in header:
            raise UserError(
                f"{file} has no column {name!r}; its columns are {', '.join(header)}"
                f"{nearest(name, header)}"
            )
        if not name:
            raise UserError(
                f"{file} has a column without a name (pandas writes one unless told index=False); "
                "remove it, give it a name, or choose others with --columns"
            )
        if name in TAKEN:
            raise UserError(
                f"the column {name!r} of {file} cannot be a modality, because torch uses that word "
                f"itself: rename it, e.g. to {name}_1; or choose others with --columns"
            )
        if not may_name(name) or name in META:
            raise UserError(
                f"the column {name!r} of {file} cannot be a modality: rename it to letters, digits "
                f"and underscores, without one in front, and to none of fused, {', '.join(META)}; "
                "or choose others with --columns"
            )
    if not modalities:
        raise UserError(f"{file} has no column beside {', '.join(header)}; add one per modality")


def _check_kinds(kinds: Mapping[str, str], modalities: Sequence[str]) -> dict[str, OwnKind]:
    known: dict[str, OwnKind] = {kind: kind for kind in get_args(OwnKind)}
    for column, kind in kinds.items():
        if column not in modalities:
            raise UserError(
                f"--kind names the column {column!r}{nearest(column, modalities)}; the modalities "
                f"are {', '.join(modalities)}"
            )
        if kind not in known:
            raise UserError(
                f"--kind {column}={kind} is unknown{nearest(kind, known)}; there are "
                f"{', '.join(known)}"
            )
    return {column: known[kind] for column, kind in kinds.items()}


def _infer(file: Path, column: str, raw: Sequence[tuple[str, Mapping[str, str]]]) -> OwnKind:
    """Return the kind that a column's suffixes say; without a known one, number or text.

    Raises:
        UserError: if the values are of several kinds, or name files of none.
    """
    first: dict[OwnKind, str] = {}
    files = numbers = 0
    for place, values in raw:
        value = values[column]
        if not value:
            continue  # reported with its line later
        suffix = Path(value).suffix.lower() if len(value) < LONGEST_PATH else ""
        kinds = [kind for kind, known in SUFFIXES.items() if suffix in known]
        if not kinds and is_number(value):
            kinds = ["number"]
            numbers += 1
        first.setdefault(kinds[0] if kinds else "text", f"{place}: {value[:60]!r}")
        files += bool(suffix and not kinds and _is_file(file.parent / value))
    if list(first) == ["text"] and files:
        raise UserError(
            f"the column {column!r} of {file} names files whose kind is not known "
            f"({first['text']}). Write a text itself into the table; save numbers as .npy; or "
            f"state the kind with --kind {column}=KIND"
        )
    if set(first) == {"number", "text"}:
        if 2 * numbers <= len(raw):
            return "text"  # in which a number stands here and there
        raise UserError(
            f"the column {column!r} of {file} holds numbers in {numbers} of {len(raw)} rows, but "
            f"{first['text']} is none. Mend the rows (--kind {column}=number lists them all), "
            "leave the column out with --columns, or take its digits as words with "
            f"--kind {column}=text"
        )
    if len(first) <= 1:
        return next(iter(first), "text")
    listed = "; ".join(f"{kind} ({where})" for kind, where in first.items())
    raise UserError(
        f"the column {column!r} of {file} looks like several kinds: {listed}. Mend the rows, or "
        f"state the kind with --kind {column}=KIND"
    )


def is_number(value: str) -> bool:
    """Say whether a value is a number that float32 holds, as a table writes one."""
    try:
        return "_" not in value and abs(float(value)) <= LARGEST  # false for NaN
    except ValueError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that cannot be a path
        return False


def _row(
    file: Path,
    place: str,
    values: Mapping[str, str],
    kinds: Mapping[str, OwnKind],
    header: Sequence[str],
    problems: list[str],
) -> Row:
    found = {}
    for column, kind in kinds.items():
        value = values[column]
        if not value:
            problems.append(f"{place}, column {column}: empty")
        if kind == "number" and value and not is_number(value):
            problems.append(f"{place}, column {column}: {value[:60]!r} is not a finite number")
        if kind not in IN_TABLE and value:
            value = str((file.parent / value).absolute())
            if not _is_file(Path(value)):
                problems.append(f"{place}, column {column}: there is no file {value}")
        found[column] = value
    if not values["label"]:
        problems.append(f"{place}, column label: empty")
    split = SPLIT_NAMES.get(values.get("split", "").lower(), "")
    if "split" in header and not split:
        problems.append(
            f"{place}, column split: {values['split']!r} is none of {', '.join(SPLIT_NAMES)}"
        )
    own = values["id"] if "id" in header else place.rpartition(" ")[2]
    return Row(place, own, values["label"], split, values.get("group", "") or own, found)


def _classes(file: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the labels: as numbers in their order if all are finite numbers, else as names."""
    names = sorted({row.label for row in rows})
    try:
        number = {name: float(name) for name in names}
    except ValueError:
        return tuple(names)
    if not all(map(isfinite, number.values())):
        return tuple(names)
    ordered = sorted(names, key=lambda name: number[name])
    for one, other in pairwise(ordered):
        if number[one] == number[other]:
            where = next(row.place for row in rows if row.label == other)
            raise UserError(
                f"{file} has the labels {one!r} and {other!r} ({where}), which are one number; "
                "write it alike in all rows"
            )
    return tuple(ordered)
