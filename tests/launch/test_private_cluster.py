"""Where SLURM cannot be had, its tests say so and are skipped."""

import pytest

from mmbench.testing import slurm
from mmbench.testing.slurm import Unavailable, install


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine of root's without SLURM; return where its programs are."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(slurm, "PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "LIBRARIES", tmp_path / "lib")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return tmp_path


def program(folder, name, text="exit 0"):
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_only_root_can_start_daemons(bare, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="by root only"):
        install()


def test_without_debians_packages_what_is_missing_is_named(bare):
    program(bare, "sbatch")
    with pytest.raises(Unavailable, match=r"slurmctld, slurmd, srun.* not found, and this is not"):
        install()


def test_a_failed_installation_gives_apts_reason(bare):
    program(bare, "apt-get", 'echo "E: no network" >&2; exit 100')
    with pytest.raises(Unavailable, match=r"cannot install slurm-wlm munge .*: E: no network"):
        install()


@pytest.fixture
def programs(bare):
    """The same machine with SLURM's programs, and an apt-get that notes what it is asked for."""
    for name in slurm.PROGRAMS:
        program(bare, name)
    program(bare, "apt-get", f'echo "$@" >> {bare}/asked; exit 100')
    return bare


def test_what_is_there_is_not_installed(programs):
    library = programs / "lib" / "x86_64-linux-gnu" / "faketime" / "libfaketime.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    assert slurm.faketime() == library
    install()
    assert not (programs / "asked").exists()


def test_a_missing_library_is_installed_and_done_without_if_it_cannot_be_had(programs):
    assert slurm.faketime() is None
    install()
    assert "libfaketime" in (programs / "asked").read_text()


def test_where_the_library_cannot_be_installed_the_cluster_does_without(programs):
    (programs / "apt-get").unlink()
    install()
