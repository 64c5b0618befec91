"""What is in the way where a path must be a folder, as it is or once it is made."""

import errno
import os
from pathlib import Path

HINDERED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def obstacle(path: Path) -> str:
    """Say what lies at ``path`` or above it that is no folder; empty: nothing is in the way."""
    for part in (path, *path.parents):
        if os.path.isdir(part):
            return ""
        if os.path.lexists(part):
            return f"{part} is a {'file' if os.path.exists(part) else 'link that leads nowhere'}"
    return ""


def hindrance(path: Path, err: OSError) -> str:
    """Say why nothing can be written below ``path``, and what can be done about that."""
    if found := obstacle(path):
        return f"{found}; move it away"
    why = err.strerror or str(err)
    return f"{why}; make room or get write permission" if err.errno in HINDERED else why
