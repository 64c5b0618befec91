"""A folder that the nodes cannot see is refused when submitting, not found out by lost jobs."""

import socket
import sys
from pathlib import Path

import pytest

from mmbench.errors import UserError
from mmbench.launch.visible import Needed, check_shared, file_system, interpreter

MOUNTS = r"""
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:20 / /tmp rw - tmpfs tmpfs rw
23 21 0:50 / /home rw,relatime shared:7 - nfs4 server:/home rw
24 21 0:51 / /big\040data rw - lustre a@tcp:/big rw
25 21 0:52 / /new rw - mystorefs x rw
""".lstrip()


@pytest.fixture
def mounts(tmp_path):
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS)
    return file


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/var/x", "ext4"), ("/tmp/a/b", "tmpfs"), ("/home/me", "nfs4"), ("/homes", "ext4"),
     ("/big data/results", "lustre"), ("/new", "mystorefs")],
)  # fmt: skip
def test_the_type_is_that_of_the_deepest_mount(mounts, path, kind):
    assert file_system(Path(path), mounts) == kind


def test_a_local_folder_is_refused_when_jobs_run_elsewhere(mounts):
    with pytest.raises(UserError, match=r"cannot see /var/x: it is on ext4.*n1, n2; choose"):
        check_shared([Needed(Path("/home/me")), Needed(Path("/var/x"))], ["n1", "n2"], mounts)


@pytest.mark.parametrize("path", ["/home/me", "/big data", "/new"])
def test_shared_and_unknown_file_systems_pass(mounts, path):
    check_shared([Needed(Path(path))], ["n1"], mounts)


def test_on_a_cluster_of_this_machine_alone_any_folder_will_do(mounts):
    check_shared([Needed(Path("/var/x"))], [socket.gethostname(), "localhost"], mounts)


@pytest.fixture
def python(monkeypatch):
    """Return a function that says where this Python lies."""

    def lies(prefix, base):
        monkeypatch.setattr(sys, "prefix", prefix)
        monkeypatch.setattr(sys, "base_prefix", base)

    return lies


def test_a_local_environment_is_refused_with_what_to_do(mounts, python):
    python("/var/venv", "/usr")
    found = r"cannot see the Python that runs mmbench, /var/venv: .* install mmbench into an env"
    with pytest.raises(UserError, match=found):
        check_shared(interpreter(), ["n1"], mounts)


def test_a_shared_environment_made_with_a_local_python_is_refused(mounts, python):
    python("/home/me/venv", "/opt/python")
    with pytest.raises(UserError, match="cannot see the Python that runs mmbench, /opt/python"):
        check_shared(interpreter(), ["n1"], mounts)


def test_a_python_that_comes_with_the_machine_passes(mounts, python):
    python("/home/me/venv", "/usr")
    check_shared(interpreter(), ["n1"], mounts)


def test_letters_beyond_ascii_in_the_name_of_a_mount_stay_what_they_are(tmp_path):
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS + "26 21 0:53 / /données rw - nfs4 server:/d rw\n", encoding="utf-8")
    assert file_system(Path("/données/results"), file) == "nfs4"
