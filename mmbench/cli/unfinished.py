"""What a report leaves unsaid: cells that were begun and not finished are in none of its tables."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmbench.errors import UserError
from mmbench.hints import interrupted
from mmbench.store import record_files
from mmbench.survey import left_alone


@contextmanager
def told(results: Path, source: str) -> Iterator[None]:
    """Say on stderr which cells were interrupted, if the report made meanwhile reads runs.

    Raises:
        UserError: if there is nothing else to report; also beside what the report complains of.
    """
    alone = len(left_alone(results)) if source in ("auto", "runs") else 0
    if not alone:
        yield
        return
    said = interrupted(alone)
    finished = next(record_files(results / "runs", []), None)
    if finished is None and (source == "runs" or not (results / "records").is_dir()):
        raise UserError(f"no record in {results / 'runs'} yet: {said}")
    try:
        yield
    except UserError as err:
        raise UserError(f"{err}\n{said}") from err
    where = "" if finished else f"; the tables are those of {results / 'records'}"
    print(f"note: {said}{where}", file=sys.stderr)
