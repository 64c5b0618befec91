"""``run --cluster slurm --dry-run`` shows what would be submitted, also where SLURM is not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmbench.cli.steering import retry
from mmbench.cli.submitting import needed, without_killers
from mmbench.launch import lease as leases
from mmbench.launch.lease import Owner
from mmbench.store import Store, iter_records, read_record

RECORDS = Path(__file__).parents[2] / "results" / "records"

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


@pytest.mark.parametrize(
    ("asked", "jobs"),
    [
        ("--gpus 4 --gpus-per-cell 2", 5),
        ("--gpus 4 --gpus-per-cell 2 --per-gpu 5", 1),
        ("--gpus 1 --slurm gres=nvme:1", 10),
        ("--cpus 8 --gpus-per-cell 2", 3),
        ("--cpus 8 --jobs 2", 5),
        ("--cpus 8 --slurm gres=gpu:1 --device cuda", 10),
        ("--cpus 8 --slurm gres=gpu:2 --device cuda --gpus-per-cell 2 --per-gpu 2", 5),
    ],
)
def test_jobs_are_as_many_as_ten_cells_need(cache, tmp_path, asked, jobs):
    words = ("--datasets", "mfeat3", "--seeds", "5", "--cluster", "slurm", "--time", "60")
    (group,) = shown(cache, tmp_path, *words, *asked.split())
    assert (group["cells"], group["jobs"]) == (10, jobs)


def test_a_table_of_a_profile_for_no_dataset_is_refused_with_the_nearest_name(cache, tmp_path):
    (tmp_path / "p.toml").write_text("time = 60\n[datasets.mfeat]\nmem = '9G'\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        shown(cache, tmp_path, "--datasets", "mfeat3", "--profile", "p.toml")
    assert caught.value.returncode == 2
    assert "[datasets.mfeat], which is no dataset; did you mean 'mfeat3'?" in caught.value.stderr


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def cells(store):
    """Two cells; three workers died at the first."""
    done = next(r for r in iter_records(RECORDS) if r.status == "done")
    cells = [done.cell.model_copy(update={"seed": seed}) for seed in range(2)]
    folder = store.create(cells[0]).path
    (folder / "w.log").write_text(f"== {folder.name}\nthe last words\n")
    for number in (1, 2, 3):
        owner = Owner(worker="w", host="n1", log=str(folder / "w.log"))
        os.utime(leases.take(folder, number, owner).file, (1, 1))
    return cells


def test_a_cell_that_kills_its_workers_is_given_up_by_the_submitter(store, cells, capsys):
    assert without_killers(cells, store) == cells[1:]
    assert f"given up: {cells[0].folder}: 3 workers died at it (on n1)" in capsys.readouterr().out
    assert store.state(cells[0]) == "failed"
    (failed,) = store.directory(cells[0]).failures()
    failure = read_record(failed).failure
    assert (failure.final, failure.log) == (True, "the last words")
    assert without_killers(cells, store) == cells[1:]
    assert len(store.directory(cells[0]).failures()) == 1
    retry([], True, store.results)
    assert without_killers(cells, store) == cells


@pytest.mark.parametrize(("encoder", "wanted"), [("resnet50:imagenet", True), ("resnet50", False)])
def test_the_weights_must_be_seen_if_a_cell_reads_them(
    cells, tmp_path, monkeypatch, encoder, wanted
):
    monkeypatch.setenv("MMBENCH_WEIGHTS", str(tmp_path / "w"))
    cell = cells[0].model_copy(update={"encoders": {"image": encoder}})
    options = SimpleNamespace(results=tmp_path / "r", cache=tmp_path / "c")
    paths = [each.path for each in needed([cell], options)]
    assert paths[:2] == [tmp_path / "r", tmp_path / "c"]
    assert (tmp_path / "w" in paths) is wanted
    assert Path(sys.prefix) in paths


def test_a_cell_that_runs_is_left_to_its_worker(store, cells):
    leases.take(store.directory(cells[0]).path, 4, Owner(worker="w"))
    assert without_killers(cells, store) == cells


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((), "no time limit"),
        (("--time", "60", "--gpus", "1", "--gpus-per-cell", "2"), "needs jobs with as many GPUs"),
        (("--time", "60", "--gpus", "1", "--per-gpu", "auto"), "give a number with --cluster"),
        (("--time", "60", "--per-gpu", "auto"), "is for GPUs, and these jobs ask for none"),
        (
            ("--time", "60", "--gpus", "3", "--gpus-per-cell", "2"),
            "1 of 3 GPUs of each job would idle with --gpus-per-cell 2; ask for --gpus 2 or 4",
        ),
        (("--time", "60", "--gpus", "1", "--slurm", "gres=gpu:1"), "GPUs are asked for twice"),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_a_dry_run_too(cache, tmp_path, asked, message):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        shown(cache, tmp_path, "--datasets", "mfeat3", "--seeds", "1", "--cluster", "slurm", *asked)
    assert caught.value.returncode == 2
    assert message in caught.value.stderr
