"""Locks between processes, on any machine that shares the folder; they end with the process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def try_lock(handle: IO[Any], kind: int = fcntl.LOCK_EX) -> bool:  # Any: text or bytes
    """Lock an open file for as long as it is open; return False if another process holds it.

    Args:
        handle: the file.
        kind: ``LOCK_EX`` shuts out all others; ``LOCK_SH``, those who would shut out all.

    Raises:
        OSError: if files cannot be locked there, as on some network file systems.
    """
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as err:
        err.filename = handle.name
        raise
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which may not be there yet: one process at a time builds it, others wait.

    A file beside it is locked and not the folder: NFS tells other machines of the locks of files
    that are open for writing, and of no other.
    """
    file = folder.with_name(f".{folder.name.removeprefix('.')}.lock")
    handle = _held(file)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        os.close(handle)


def _held(file: Path) -> int:
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        except FileNotFoundError:
            pass  # whoever held it has removed it: there may be another by now
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
