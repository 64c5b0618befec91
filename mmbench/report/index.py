"""An index beside the records, so that a report need not read every file again.

``<results>/.index/runs.parquet`` (or ``records.parquet``) holds the frame's rows with the name,
size and time of the file that each was read from. A file that is new or has changed is read, one
that is gone is dropped, and the rest come from the index; deleting it loses nothing. Without
pyarrow, or where nothing can be written, all files are read.
"""

import hashlib
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from mmbench.errors import UserError
from mmbench.report import frame as frame_module
from mmbench.report.frame import as_frame, plain, row_of
from mmbench.store import read_record, record_files

WORTH = 200  # files; fewer are read faster than an index is
AT_ONCE = 2000  # records read before they are put into columns
STAMP = "_stamp"  # the state of the file that a row was read from
FILE = "file"

log = logging.getLogger(__name__)


def _stamp(state: os.stat_result) -> str:
    return f"{state.st_size}-{state.st_mtime_ns}"


def load_frame(folder: Path, unreadable: list[str]) -> pd.DataFrame:
    """Return the frame of ``<results>/runs`` or ``<results>/records``, and renew its index.

    Args:
        folder: where the records lie.
        unreadable: gets the message of every file that is not a record, or a newer version's.
    """
    start = len(str(folder)) + 1
    files = [(path[start:], _stamp(state)) for path, state in record_files(folder, unreadable)]
    file = folder.parent / ".index" / f"{folder.name}.parquet"
    known = _read(file) if len(files) >= WORTH else None
    state = pd.DataFrame(
        {FILE: [name for name, _ in files], STAMP: [stamp for _, stamp in files]}, dtype=object
    )
    if known is None:
        whole = _read_all(folder, state, unreadable)
        changed = len(files) >= WORTH
    elif known[FILE].equals(state[FILE]) and known[STAMP].equals(state[STAMP]):
        whole, changed = known, False
    else:
        merged = state.merge(known, on=[FILE, STAMP], how="left", indicator="_from")
        missing = merged["_from"] == "left_only"
        new = _read_all(folder, merged.loc[missing, [FILE, STAMP]], unreadable)
        whole = merged.loc[~missing].drop(columns="_from")
        if len(new):
            whole = pd.concat([whole, new], ignore_index=True)
        whole = plain(whole.sort_values(FILE, ignore_index=True).items())
        changed = len(new) > 0 or len(whole) != len(known)
    if changed:
        _write(whole, file)
    return whole.drop(columns=STAMP)


def _rows(
    folder: Path, state: pd.DataFrame, unreadable: list[str]
) -> Iterator[dict[str, Any]]:  # Any: as in row_of
    for name, stamp in state.itertuples(index=False):
        try:
            yield {FILE: name, STAMP: stamp, **row_of(read_record(folder / name, curve=False))}
        except UserError as err:
            unreadable.append(str(err))


def _read_all(folder: Path, state: pd.DataFrame, unreadable: list[str]) -> pd.DataFrame:
    """Return the frame of these files, some at a time: as columns they are far smaller."""
    parts = (state.iloc[at : at + AT_ONCE] for at in range(0, max(1, len(state)), AT_ONCE))
    frames = [as_frame(list(_rows(folder, part, unreadable)), extra=(STAMP,)) for part in parts]
    if len(frames) == 1:
        return frames[0]
    return plain(pd.concat(frames, ignore_index=True).items())


def _version() -> bytes:
    """Return what an index must have been made with: the code that makes its rows."""
    return hashlib.sha256(Path(frame_module.__file__).read_bytes()).hexdigest().encode()


def _read(file: Path) -> pd.DataFrame | None:
    """Return the index, or None if there is none, or not one of this version."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return None
    try:
        with parquet.ParquetFile(file) as held:
            names, metadata = held.schema_arrow.names, held.schema_arrow.metadata or {}
            if metadata.get(b"mmbench") != _version():
                return None
            return plain(_columns(held, names))
    except (OSError, ArrowException):
        return None


def _columns(held: Any, names: list[str]) -> Iterator[tuple[str, pd.Series]]:  # Any: ParquetFile
    """Yield one column at a time: the whole table beside the frame would take as much again."""
    from pyarrow import default_memory_pool

    for name in names:
        yield name, held.read([name], use_threads=False)[name].to_pandas()
        default_memory_pool().release_unused()


def _column(each: pd.Series) -> pd.Series:
    """Return what is written of a column: of text each once, with the rows that have it."""
    return each.astype("category") if pd.api.types.infer_dtype(each) == "string" else each


def _write(whole: pd.DataFrame, file: Path) -> None:
    """Write the index; a report does without if that cannot be done."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        log.info("pyarrow is not installed, so every record is read each time")
        return
    table = pyarrow.table({str(name): _column(whole[name]) for name in whole})
    # Not the process id: two machines that share the folder may have the same one.
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        labelled = table.replace_schema_metadata({b"mmbench": _version()})
        parquet.write_table(labelled, part, compression="zstd")
        part.replace(file)
    except OSError as err:
        log.warning("the index %s could not be written (%s); reports take longer", file, err)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
