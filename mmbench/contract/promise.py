"""How a check says that a method breaks its contract."""

import traceback
from pathlib import Path

import torch

from mmbench.errors import MMBenchError, NonFiniteLoss

NOT_FINITE = "guard logarithms, roots, exponentials and denominators"
LIBRARY = Path(torch.__file__).parent


class Broken(Exception):
    """The method breaks its contract; the text says what to mend."""


def require(condition: bool, mend: str) -> None:
    """Raise ``Broken`` unless ``condition``."""
    if not condition:
        raise Broken(mend)


def told(err: Exception) -> str:
    """Return in one line what went wrong and, unless the text is ours, where outside torch."""
    if isinstance(err, NonFiniteLoss):  # what helps in a run does not help here
        return f"{err.what}; {NOT_FINITE}"
    if isinstance(err, Broken | MMBenchError):
        return str(err)
    frames = traceback.extract_tb(err.__traceback__)
    ours = [f for f in frames if LIBRARY not in Path(f.filename).parents]
    where = (ours or frames)[-1]
    return f"{type(err).__name__} at {Path(where.filename).name}:{where.lineno}: {err}"
