"""One process at a time builds a folder, on any machine; others wait and then find it built."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which may not be there yet; the hold ends with the process, at the latest.

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
