"""What a report leaves unsaid: cells that were begun and not finished are in none of its tables."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmbench.errors import UserError
from mmbench.hints import interrupted
from mmbench.store import record_files
from mmbench.survey import left_alone

NAMED = 5  # cells


@contextmanager
def told(results: Path, source: str) -> Iterator[None]:
    """Say on stderr which cells were interrupted, if the report made meanwhile reads runs.

    Raises:
        UserError: if there is nothing else to report; also beside what the report complains of.
    """
    alone = left_alone(results) if source in ("auto", "runs") else []
    if not alone:
        yield
        return
    more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
    said = f"{interrupted(len(alone))} ({', '.join(alone[:NAMED])}{more})"
    finished = next(record_files(results / "runs", []), None)
    if finished is None and (source == "runs" or not (results / "records").is_dir()):
        raise UserError(f"no record in {results / 'runs'} yet: {said}")
    try:
        yield
    except UserError as err:
        raise UserError(f"{err}\n{said}") from err
    where = "" if finished else f"; the tables are those of {results / 'records'}"
    print(f"note: {said}{where}", file=sys.stderr)
