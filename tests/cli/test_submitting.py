"""``run --cluster slurm --dry-run`` shows what would be submitted, also where SLURM is not."""

import json
import subprocess
import sys

import pytest

PROFILE = """
time = 60
gpus = 1
cpus = 8
max_jobs = 8

[datasets.avdigits]
gpus = 0
cpus = 2
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def shown(cache, folder, *words):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", "run", "--methods", "concat,sum", "--results",
         str(folder / "results"), "--cache", str(cache), "--dry-run", "--json", *words],
        capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip
    assert not list(folder.glob("results/sweeps/*"))
    return json.loads(done.stdout)


def test_jobs_are_grouped_by_what_the_data_sets_ask_for_and_counted_by_what_runs_at_once(
    cache, tmp_path
):
    (tmp_path / "p.toml").write_text(PROFILE)
    words = ("--datasets", "embedded", "--seeds", "5", "--profile", "p.toml", "--per-gpu", "3")
    groups = {group["datasets"][0]: group for group in shown(cache, tmp_path, *words)}
    assert {name: group["cells"] for name, group in groups.items()} == {
        "mfeat3": 10, "avdigits": 10,
    }  # fmt: skip
    assert groups["mfeat3"]["jobs"] == 4  # 10 cells, three at once on a GPU, at most half of 8 jobs
    assert "--gpus-per-node=1" in groups["mfeat3"]["script"]
    assert groups["avdigits"]["jobs"] == 4  # would be 5 with two at once
    assert "--gpus" not in groups["avdigits"]["script"]
    assert "--cpus-per-task=2" in groups["avdigits"]["script"]


def test_folders_of_the_script_do_not_depend_on_where_it_was_typed(cache, tmp_path):
    words = ("--datasets", "mfeat3", "--seeds", "1", "--cluster", "slurm", "--time", "60")
    (group,) = shown(cache, tmp_path, *words)
    assert f"{tmp_path}/results/sweeps/" in group["script"]
    assert group["jobs"] == 2
