"""The few exceptions of mmbench. Each message says what was wrong, what was found, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class MMBenchError(Exception):
    """Base of all errors that mmbench raises on purpose."""


class UserError(MMBenchError):
    """A mistake of the user: leaves the command line without a traceback, with exit code 2."""


class NewerRecord(UserError):
    """A record is whole, but a newer version of mmbench wrote it."""


class ClosedRecord(UserError):
    """A record may be whole: its file cannot be opened or read."""


class Refused(UserError):
    """A method cannot work on this data with these encoders; the cell is refused, not failed."""


class NonFiniteLoss(MMBenchError):
    """A loss became NaN or infinite; the cell fails and says at which epoch and step.

    Args:
        what: what is not finite, and when.
        advice: what to do about it in a run.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what}; {advice}" if advice else what)
        self.what = what


class CorruptFile(MMBenchError):
    """A file of ours is truncated or altered: its bytes do not match its checksum."""


class StopRequested(MMBenchError):
    """Training was asked to stop; a checkpoint was written and the cell can be continued."""


class LeaseLost(StopRequested):
    """Another worker took the cell over; this one stops without a checkpoint or a record."""


class Busy(UserError):
    """Another process is running the cell."""


class RanksDiffer(MMBenchError):
    """The processes that train one cell have come to different states."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of ``known``, or an empty string."""
    known = list(known)
    if name in known:
        return ""
    close = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
