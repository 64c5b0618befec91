"""What a cluster is asked for is read exactly, and refused before anything is submitted."""

import pytest

from mmbench.errors import UserError
from mmbench.launch.profile import read_profile, seconds_of

FILE = """
cluster = "slurm"
partition = "gpu"
time = "2:00:00"
gpus = 1
cpus = 8
mem = "32G"
setup = ["module load cuda"]

[slurm]
qos = "long"
constraint = "a100"

[datasets.big]
mem = "128G"
time = "1-0"
"""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("2:30", 150), ("2:00:00", 7200), ("1-12", 129600), ("1-12:30", 131400),
     ("1-0:0:5", 86405)],
)  # fmt: skip
def test_times_are_read_as_slurm_reads_them(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "1:2:3:4", "-5", "UNLIMITED", "infinite"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(UserError, match=r"profile\.time"):
        read_profile("", {"time": text})


def test_what_is_typed_overrules_the_file_and_adds_to_its_options(tmp_path):
    (tmp_path / "p.toml").write_text(FILE)
    found = read_profile(str(tmp_path / "p.toml"), {"mem": "8G", "slurm": {"qos": "short"}})
    assert (found.partition, found.mem, found.cpus) == ("gpu", "8G", 8)
    assert found.slurm == {"qos": "short", "constraint": "a100"}


def test_a_data_set_may_have_resources_of_its_own(tmp_path):
    (tmp_path / "p.toml").write_text(FILE)
    profile = read_profile(str(tmp_path / "p.toml"), {})
    assert profile.resources("other").mem == "32G"
    big = profile.resources("big")
    assert (big.mem, big.time, big.gpus, big.partition) == ("128G", "1-0", 1, "gpu")


def test_a_profile_is_found_by_its_name_and_a_near_name_is_suggested(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "mmbench" / "profiles"
    folder.mkdir(parents=True)
    (folder / "mycluster.toml").write_text(FILE)
    assert read_profile("mycluster", {}).partition == "gpu"
    with pytest.raises(UserError, match="did you mean 'mycluster'"):
        read_profile("mycluste", {})


def test_no_time_limit_is_refused():
    with pytest.raises(UserError, match="no time limit; say how long"):
        read_profile("", {"gpus": 1}).resources("any")


def test_a_limit_below_the_warning_is_refused():
    with pytest.raises(UserError, match="not above the 120 s"):
        read_profile("", {"time": "2"}).resources("any")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"slurm": {"array": "0-9"}}, "use --max-jobs"),
        ({"slurm": {"output": "x"}}, "mmbench sets it"),
        ({"slurm": {"qos": "a\nrm -r b"}}, "one line"),
        ({"slurm": {"--qos": "a"}}, "without --"),
        ({"partition": "a b"}, "without spaces"),
        ({"mem": "lots"}, "profile.mem"),
        ({"partitoin": "x"}, "did you mean 'partition'"),
        ({"cpus": 0}, "profile.cpus"),
        ({"lease": 1}, "6 s or more are wanted: what trains goes on for 5 s"),
        ({"datasets": {"d": {"memm": "1G"}}}, "did you mean 'mem'"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(UserError, match=message):
        read_profile("", {"time": "90", **given}).resources("d")


def test_a_profile_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "p.toml").write_text("time = ")
    with pytest.raises(UserError, match=r"cannot read the profile .*p\.toml"):
        read_profile(str(tmp_path / "p.toml"), {})
