"""A folder that the nodes cannot see is refused when submitting, not found out by lost jobs."""

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmbench.errors import UserError
from mmbench.launch.visible import Needed, check_shared, file_system, interpreter

MOUNTS = {
    "/": "ext4", "/tmp": "tmpfs", "/home": "nfs4", "/big data": "lustre", "/new": "mystorefs",
}  # fmt: skip


def have(monkeypatch, mounts):
    """Give the machine these mounts, in the order in which they were made."""
    made = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: made)


@pytest.fixture(autouse=True)
def mounts(monkeypatch):
    have(monkeypatch, MOUNTS.items())


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/var/x", "ext4"), ("/tmp/a/b", "tmpfs"), ("/home/me", "nfs4"), ("/homes", "ext4"),
     ("/big data/results", "lustre"), ("/new", "mystorefs")],
)  # fmt: skip
def test_the_type_is_that_of_the_deepest_mount(path, kind):
    assert file_system(Path(path)) == kind


def test_a_local_folder_is_refused_when_jobs_run_elsewhere():
    with pytest.raises(UserError, match=r"cannot see /var/x: it is on ext4.*n1, n2; choose"):
        check_shared([Needed(Path("/home/me")), Needed(Path("/var/x"))], ["n1", "n2"])


@pytest.mark.parametrize("path", ["/home/me", "/big data", "/new"])
def test_shared_and_unknown_file_systems_pass(path):
    check_shared([Needed(Path(path))], ["n1"])


def test_on_a_cluster_of_this_machine_alone_any_folder_will_do():
    check_shared([Needed(Path("/var/x"))], [socket.gethostname(), "localhost"])


@pytest.fixture
def python(monkeypatch):
    """Return a function that says where this Python lies."""

    def lies(prefix, base):
        monkeypatch.setattr(sys, "prefix", prefix)
        monkeypatch.setattr(sys, "base_prefix", base)

    return lies


def test_a_local_environment_is_refused_with_what_to_do(python):
    python("/var/venv", "/usr")
    found = r"cannot see the Python that runs mmbench, /var/venv: .* install mmbench into an env"
    with pytest.raises(UserError, match=found):
        check_shared(interpreter(), ["n1"])


def test_a_shared_environment_made_with_a_local_python_is_refused(python):
    python("/home/me/venv", "/opt/python")
    with pytest.raises(UserError, match="cannot see the Python that runs mmbench, /opt/python"):
        check_shared(interpreter(), ["n1"])


def test_a_python_that_comes_with_the_machine_passes(python):
    python("/home/me/venv", "/usr")
    check_shared(interpreter(), ["n1"])


def test_the_last_of_several_mounts_at_a_place_counts(monkeypatch):
    have(monkeypatch, [("/", "ext4"), ("/home", "autofs"), ("/home", "nfs4"), ("/home/me", "xfs")])
    assert file_system(Path("/home/you")) == "nfs4"


def test_where_the_mounts_cannot_be_read_nothing_is_refused(monkeypatch):
    def unreadable(all):
        raise PermissionError

    monkeypatch.setattr("psutil.disk_partitions", unreadable)
    assert file_system(Path("/var/x")) == ""
    check_shared([Needed(Path("/var/x"))], ["n1"])


@pytest.mark.skipif(sys.platform != "linux", reason="asks for a file system of Linux")
def test_the_types_of_this_machine_are_known(monkeypatch):
    monkeypatch.undo()
    assert file_system(Path("/proc/self")) == "proc"
