"""A user's table from the command line: prepared, verified, trained on; stopped and resumed."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmbench.own.dataset import Definition, definition_file, read_definition, save
from mmbench.testing.files import animals, tone, write_table

SMALL = ["--set", "image_size=24", "--set", "seconds=0.3"]


def mmbench(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def prepare(table, cache, *more):
    return mmbench("prepare", table, "--cache", cache, *SMALL, *more)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A table of five modalities, prepared; its folder, its rows and its cache."""
    folder = tmp_path_factory.mktemp("a zoo")
    rows = animals(folder / "files", samples=60)
    listed = [
        {k: f"files/{v}" if k not in ("label", "told") else v for k, v in row.items()}
        for row in rows
    ]
    done = prepare(write_table(folder / "zoo.csv", listed), folder / "cache")
    assert done.returncode == 0, done.stderr
    assert "3 classes; 43 train, 5 val, 12 test" in done.stdout
    return folder, listed


def test_a_prepared_table_is_listed_verified_and_run_like_any_other(zoo, tmp_path):
    folder, _ = zoo
    verified = mmbench("verify", "zoo", "--cache", folder / "cache", "--json")
    assert verified.returncode == 0, verified.stdout
    assert all(check["ok"] for check in json.loads(verified.stdout))
    run = mmbench(
        "run", "--methods", "concat,iprm", "--datasets", "zoo", "--cache", folder / "cache",
        "--results", tmp_path, "--set", "trainer.epochs=8", "--set", "trainer.batch_size=8",
        "--encoder", "film=resnet18",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    (record,) = (
        json.loads(file.read_text()) for file in tmp_path.glob("runs/zoo.concat.*/record.json")
    )
    scores = record["final"]["selected"]
    assert set(scores) == {"fused", "sound", "photo", "film", "told", "numbers"}
    assert scores["fused"]["accuracy"] > 0.9  # the classes are plain to see
    report = mmbench("report", "--results", tmp_path)
    assert report.returncode == 0 and "zoo" in report.stdout


def test_all_takes_a_prepared_table(zoo):
    folder, _ = zoo
    plan = mmbench("run", "--methods", "concat", "--datasets", "all", "--dry-run", "--json",
                   "--cache", folder / "cache", "--results", folder / "res")  # fmt: skip
    assert plan.returncode == 0, plan.stderr
    assert any(row["cell"].startswith("zoo.concat") for row in json.loads(plan.stdout))


def test_vectors_are_standardised_by_train(zoo):
    folder, _ = zoo
    (train,) = (folder / "cache" / "zoo").glob("*/train.numbers.npy")
    x = np.load(train)
    assert x.mean(0) == pytest.approx(0, abs=1e-5) and x.std(0) == pytest.approx(1, abs=1e-4)


def test_a_column_of_numbers_is_one_standardised_number_a_sample(tmp_path):
    lines = [f"{'cold' if i % 2 else 'warm'},{20 - 15 * (i % 2) + i / 10}" for i in range(40)]
    (tmp_path / "days.csv").write_text("\n".join(["label,degrees", *lines]))
    done = mmbench("prepare", tmp_path / "days.csv", "--cache", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert "modalities: degrees (number)" in done.stderr and "degrees: number, 1" in done.stdout
    (train,) = (tmp_path / "c" / "days").glob("*/train.degrees.npy")
    x = np.load(train)
    assert x.shape[1:] == (1,) and x.std() == pytest.approx(1, abs=1e-4)
    assert mmbench("verify", "days", "--cache", tmp_path / "c").returncode == 0


def test_other_options_make_another_cache(zoo):
    folder, _ = zoo
    before = set((folder / "cache" / "zoo").iterdir())
    done = mmbench("prepare", "zoo", "--cache", folder / "cache", "--set", "words=3")
    assert done.returncode == 0, done.stderr
    (made,) = set((folder / "cache" / "zoo").iterdir()) - before
    assert np.load(made / "test.told.npy").shape == (12, 3)


def test_groups_are_not_split(tmp_path):
    rows = animals(tmp_path, samples=60, columns=("told", "numbers"))
    table = write_table(
        tmp_path / "g.csv", [row | {"group": f"speaker{i // 6}"} for i, row in enumerate(rows)]
    )
    assert prepare(table, tmp_path / "cache").returncode == 0
    checks = json.loads(mmbench("verify", "g", "--cache", tmp_path / "cache", "--json").stdout)
    shared = {c["name"]: c["detail"] for c in checks if c["name"].startswith("groups")}
    assert set(shared.values()) == {"0 shared"} and len(shared) == 3


def test_a_file_that_lies_in_two_splits_is_told_and_fails_verify(tmp_path):
    rows = animals(tmp_path, samples=24, columns=("sound", "told"))
    named = ("train",) * 15 + ("val",) * 3 + ("test",) * 6
    listed = [row | {"split": s} for row, s in zip(rows, named, strict=True)]
    listed[20]["sound"] = listed[2]["sound"]  # one file in two rows
    (tmp_path / "copy.wav").write_bytes((tmp_path / listed[3]["sound"]).read_bytes())
    listed[21]["sound"] = "copy.wav"  # one content under two names
    done = prepare(write_table(tmp_path / "leaky.csv", listed), tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    told = "2 of 6 samples of test are in train too, as '22', there '4'"
    assert f"{told}: see mmbench verify leaky" in done.stdout
    verified = mmbench("verify", "leaky", "--cache", tmp_path / "cache", "--json")
    assert verified.returncode == 1
    (failed,) = (check for check in json.loads(verified.stdout) if not check["ok"])
    assert failed["name"] == "content train/test" and told in failed["detail"]


def test_unreadable_files_stop_prepare_and_can_be_mended_or_left_out(tmp_path):
    rows = animals(tmp_path, samples=40, columns=("sound", "told"))
    (tmp_path / "a 7.wav").write_text("no sound")
    table = write_table(tmp_path / "my.csv", rows)
    done = prepare(table, tmp_path / "cache")
    assert done.returncode == 2
    assert "1 of 40 rows cannot be used" in done.stderr
    assert re.search(r"my.csv, line 9, column sound: .*a 7.wav: .*Invalid data", done.stderr)
    assert mmbench("verify", "my", "--cache", tmp_path / "cache").returncode == 2
    skipped = prepare(table, tmp_path / "cache", "--set", "unreadable=skip")
    assert skipped.returncode == 0, skipped.stderr
    assert "left out" in skipped.stderr and "a 7.wav" in skipped.stderr
    assert (
        "1 samples could not be read"
        in mmbench("verify", "my", "--cache", tmp_path / "cache").stdout
    )
    tone(tmp_path / "a 7.wav", 1)
    mended = prepare(table, tmp_path / "cache")
    assert mended.returncode == 0, mended.stderr
    verified = mmbench("verify", "my", "--cache", tmp_path / "cache").stdout
    assert "40 of 40 listed samples, 0 left out" in verified


def test_the_first_array_of_a_column_may_be_the_one_left_out(tmp_path):
    rows = animals(tmp_path, samples=24, columns=("told", "numbers"))
    table = write_table(tmp_path / "first.csv", rows)
    (tmp_path / rows[0]["numbers"]).write_text("no numbers")
    done = prepare(table, tmp_path / "cache")
    assert done.returncode == 2 and "first.csv, line 2, column numbers" in done.stderr
    done = prepare(table, tmp_path / "cache", "--set", "unreadable=skip")
    assert done.returncode == 0, done.stderr
    assert "1 of 24 rows" in done.stdout + done.stderr


def test_a_killed_prepare_goes_on_where_it_stopped(tmp_path):
    rows = animals(tmp_path, samples=400, columns=("film", "told"))
    table = write_table(tmp_path / "my.csv", rows)
    command = [sys.executable, "-P", "-m", "mmbench", "prepare", table, "--cache",
               tmp_path / "cache", *SMALL]  # fmt: skip
    first = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("cache/my/.progress-*/shards/[!.]*.npz")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert mmbench("verify", "my", "--cache", tmp_path / "cache").returncode == 2  # not prepared
    second = prepare(table, tmp_path / "cache")
    assert second.returncode == 0, second.stderr
    assert re.search(r"\d+ of 400 samples were decoded before", second.stderr)
    undisturbed = prepare(table, tmp_path / "other")
    assert undisturbed.returncode == 0
    one, two = (
        json.loads(next((tmp_path / c / "my").glob("*/manifest.json")).read_text())
        for c in ("cache", "other")
    )
    assert one["data_hash"] == two["data_hash"] and one["files"] == two["files"]
    assert not list(tmp_path.glob("cache/my/.progress-*"))


def test_a_change_of_the_table_is_noticed(tmp_path):
    rows = animals(tmp_path, samples=30, columns=("told", "numbers"))
    table = write_table(tmp_path / "my.csv", rows)
    assert prepare(table, tmp_path / "cache").returncode == 0
    write_table(table, [*rows[:-1], rows[-1] | {"label": "cat"}])
    done = mmbench("prepare", "my", "--cache", tmp_path / "cache", "--rebuild")
    assert done.returncode == 2 and "changed since it was prepared" in done.stderr
    assert prepare(table, tmp_path / "cache").returncode == 0
    assert len(list((tmp_path / "cache" / "my").glob("*/manifest.json"))) == 2


def test_a_prepared_table_is_removed_and_what_it_was_made_from_stays(tmp_path):
    rows = animals(tmp_path, samples=30, columns=("told", "numbers"))
    table = write_table(tmp_path / "my.csv", rows)
    place = tmp_path / "cache" / "my"
    assert prepare(table, tmp_path / "cache").returncode == 0
    files = {file: file.read_bytes() for file in tmp_path.glob("*.*")}
    (place / "notes by hand.txt").write_text("mine")
    for own in ("features", "202301011200"):
        (place / own).mkdir()
        (place / own / "sound.wav").write_text("mine")
    clean = ["clean", "--data", "my", "--cache", tmp_path / "cache"]
    before = sorted(place.iterdir())
    planned = mmbench(*clean, "--dry-run")
    assert f"would remove {place / 'own.json'}" in planned.stdout
    assert sorted(place.iterdir()) == before
    done = mmbench(*clean)
    assert done.returncode == 0, done.stderr
    assert f"removed {place / 'own.json'}" in done.stdout
    assert f"the table {table} and its files, runs and records stay" in done.stdout
    assert {file.name for file in place.iterdir()} == {
        "notes by hand.txt", "features", "202301011200"
    }  # fmt: skip
    assert {file: file.read_bytes() for file in tmp_path.glob("*.*")} == files
    again = mmbench(*clean)
    assert again.returncode == 2 and "(there are none)" in again.stderr
    assert mmbench("verify", "my", "--cache", tmp_path / "cache").returncode == 2
    assert prepare(table, tmp_path / "cache").returncode == 0


def test_data_that_is_not_there_or_being_prepared_is_not_removed(tmp_path):
    folder = tmp_path / "mfeat3"
    (folder / "0123456789ab").mkdir(parents=True)
    (folder / "0123456789ab" / "manifest.json").touch()
    (tmp_path / "mine" / "202301011200").mkdir(parents=True)  # named by the time of a recording
    (tmp_path / "weights" / "owner").mkdir(parents=True)
    for name in ("mfaet3", "mine", "weights", "../mfeat3", "."):
        done = mmbench("clean", "--data", name, "--cache", tmp_path)
        assert done.returncode == 2, name
        assert "(there are mfeat3)" in done.stderr
    done = mmbench("clean", "--data", "mfaet3", "--cache", tmp_path)
    assert "did you mean 'mfeat3'?" in done.stderr
    with (folder / ".progress-0123456789ab.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = mmbench("clean", "--data", "mfeat3", "--cache", tmp_path)
    assert done.returncode == 2 and "a process is preparing mfeat3" in done.stderr
    assert (folder / "0123456789ab").is_dir()
    both = mmbench("clean", "--data", "mfeat3", "--failed", "--cache", tmp_path)
    assert both.returncode == 2 and "--data is about the cache" in both.stderr


def test_names_that_are_taken_are_refused(tmp_path):
    rows = animals(tmp_path, samples=30, columns=("told", "numbers"))
    table = write_table(tmp_path / "mfeat3.csv", rows)
    done = prepare(table, tmp_path / "cache")
    assert done.returncode == 2 and "--name" in done.stderr
    done = prepare(table, tmp_path / "cache", "--name", "concat")
    assert done.returncode == 2 and "concat is a method of mmbench" in done.stderr
    assert prepare(table, tmp_path / "cache", "--name", "mine").returncode == 0
    (tmp_path / "b").mkdir()
    by_another_path = tmp_path / "b" / ".." / "mfeat3.csv"
    assert prepare(by_another_path, tmp_path / "cache", "--name", "mine").returncode == 0
    other = write_table(tmp_path / "mine.csv", rows)
    done = prepare(other, tmp_path / "cache")
    assert done.returncode == 2 and "already made from" in done.stderr


def test_a_class_without_training_rows_is_refused(tmp_path):
    rows = animals(tmp_path, samples=30, columns=("told", "numbers"))
    listed = [r | {"split": "test" if r["label"] == "owl" else "train"} for r in rows]
    done = prepare(write_table(tmp_path / "my.csv", listed), tmp_path / "cache")
    assert done.returncode == 2 and "no training row has the label 'owl'" in done.stderr


def test_options_of_tables_are_refused_elsewhere(tmp_path):
    done = mmbench("prepare", "mfeat3", "--name", "x", "--cache", tmp_path)
    assert done.returncode == 2 and "your own table" in done.stderr
    done = mmbench("prepare", tmp_path / "no.csv", "--cache", tmp_path)
    assert done.returncode == 2 and "there is no table" in done.stderr


def test_two_machines_whose_processes_share_an_id_may_keep_a_definition_at_once(
    tmp_path, monkeypatch
):
    mine = Definition("my", "my.csv", {"x": "array"}, {"x": (2,)}, ("a", "b"), "0", {})
    (tmp_path / "my").mkdir()
    replace = Path.replace

    def late(part, file):
        monkeypatch.setattr(Path, "replace", replace)
        save(mine, tmp_path)  # the other one, between our bytes and their name
        return replace(part, file)

    monkeypatch.setattr(Path, "replace", late)
    save(mine, tmp_path)
    assert read_definition(definition_file("my", tmp_path)) == mine
    assert [file.name for file in (tmp_path / "my").iterdir()] == ["own.json"]
