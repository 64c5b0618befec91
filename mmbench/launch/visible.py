"""Is a folder seen by the nodes as well? Asked before a job is submitted that could not write."""

import os
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from mmbench.errors import UserError

# File systems of one machine; what is not listed (nfs, lustre, gpfs, ...) is taken as shared.
LOCAL = frozenset((
    "apfs", "aufs", "bcachefs", "btrfs", "devtmpfs", "ext2", "ext3", "ext4", "f2fs", "hfs", "jfs",
    "overlay", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "vfat", "xfs", "zfs",
))  # fmt: skip
OF_THE_SYSTEM = ("/", "/usr", "/usr/local")  # where a Python comes with the machine


def file_system(path: Path) -> str:
    """Return the type of the file system that ``path`` lies on; empty if the system cannot tell.

    Args:
        path: need not exist yet.
    """
    try:
        mounts = psutil.disk_partitions(all=True)
    except OSError:
        return ""
    whole = path.resolve()
    above = [mount for mount in mounts if whole.is_relative_to(mount.mountpoint)]
    above.sort(key=lambda mount: len(mount.mountpoint))
    return str(above[-1].fstype) if above else ""  # the last at a place hides those before


@dataclass(frozen=True)
class Needed:
    """A folder that jobs need.

    Attributes:
        path: where it is.
        what: what it is, for messages; empty: its path says it.
        instead: what to do if the nodes do not see it.
    """

    path: Path
    what: str = ""
    instead: str = "choose a folder on a shared file system (--results, --cache)"


def interpreter() -> list[Needed]:
    """Return the folders of the Python that jobs will run with: this one's.

    Those of the system are left out: each machine has its own.
    """
    instead = (
        "install mmbench into an environment on a shared file system, its Python as well, and "
        "submit with that"
    )
    folders = dict.fromkeys(Path(prefix) for prefix in (sys.prefix, sys.base_prefix))
    what = "the Python that runs mmbench"
    return [Needed(each, what, instead) for each in folders if str(each) not in OF_THE_SYSTEM]


def check_shared(folders: Iterable[Needed], hosts: Iterable[str]) -> None:
    """Refuse folders that other machines than this cannot see.

    Args:
        folders: what jobs read and write.
        hosts: the machines that jobs may run on.

    Raises:
        UserError: if a folder is on a file system of this machine and a host is another one.
    """
    here = _short(socket.gethostname())
    others = sorted({_short(host) for host in hosts} - {here, "localhost"})
    if not others:
        return
    shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    for each in folders:
        kind = file_system(each.path)
        if kind in LOCAL:
            named = f"{each.what}, {each.path}" if each.what else each.path
            raise UserError(
                f"the nodes cannot see {named}: it is on {kind}, a file system of this machine "
                f"({here}), and jobs would run on {shown}; {each.instead}, or say shared = true in "
                "the profile if they do see it, or have the same there"
            )


def _short(host: str) -> str:
    return host.partition(".")[0]


def absolute(path: Path) -> Path:
    """Return ``path`` from the root, links kept: a cluster's home is often a link to elsewhere."""
    return Path(os.path.abspath(path.expanduser()))
