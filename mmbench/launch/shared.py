"""Is a folder seen by the nodes as well? Asked before a job is submitted that could not write."""

import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path

from mmbench.errors import UserError

# File systems of one machine; what is not listed (nfs, lustre, gpfs, ...) is taken as shared.
LOCAL = frozenset((
    "apfs", "aufs", "bcachefs", "btrfs", "devtmpfs", "ext2", "ext3", "ext4", "f2fs", "hfs", "jfs",
    "overlay", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "vfat", "xfs", "zfs",
))  # fmt: skip
MOUNTS = Path("/proc/self/mountinfo")
ESCAPED = re.compile(r"\\([0-7]{3})")  # how the kernel writes spaces there


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system that ``path`` lies on; empty if the system cannot tell.

    Args:
        path: need not exist yet.
        mounts: in the kernel's format of ``mountinfo``.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    whole = path.resolve()
    found = ("", "")
    for line in lines:
        before, _, after = line.partition(" - ")
        point = ESCAPED.sub(lambda code: chr(int(code[1], 8)), before.split()[4])
        if (whole == Path(point) or Path(point) in whole.parents) and len(point) >= len(found[0]):
            found = (point, after.split()[0])  # the last mount at a place hides those before
    return found[1]


def check_shared(folders: Iterable[Path], hosts: Iterable[str], mounts: Path = MOUNTS) -> None:
    """Refuse folders that other machines than this cannot see.

    Args:
        folders: what jobs read and write.
        hosts: the machines that jobs may run on.
        mounts: see ``file_system``.

    Raises:
        UserError: if a folder is on a file system of this machine and a host is another one.
    """
    here = _short(socket.gethostname())
    others = sorted({_short(host) for host in hosts} - {here, "localhost"})
    if not others:
        return
    shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    for folder in folders:
        kind = file_system(folder, mounts)
        if kind in LOCAL:
            raise UserError(
                f"the nodes cannot see {folder}: it is on {kind}, a file system of this machine "
                f"({here}), and jobs would run on {shown}; choose a folder on a shared file system "
                "(--results, --cache), or say shared = true in the profile if they do see it"
            )


def _short(host: str) -> str:
    return host.partition(".")[0]


def absolute(path: Path) -> Path:
    """Return ``path`` from the root, links kept: a cluster's home is often a link to elsewhere."""
    return Path(os.path.abspath(path.expanduser()))
