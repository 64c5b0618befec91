"""How a check says that a method breaks its contract."""

import traceback
from pathlib import Path


class Broken(Exception):
    """The method breaks its contract; the text says what to mend."""


def require(condition: bool, mend: str) -> None:
    """Raise ``Broken`` unless ``condition``."""
    if not condition:
        raise Broken(mend)


def told(err: Exception) -> str:
    """Return in one line what went wrong and, unless the text is ours, where."""
    if isinstance(err, Broken):
        return str(err)
    where = traceback.extract_tb(err.__traceback__)[-1]
    return f"{type(err).__name__} at {Path(where.filename).name}:{where.lineno}: {err}"
