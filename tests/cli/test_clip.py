"""Tweets and pictures under CLIP from the command line: prepared, trained on, weights missing."""

import json
import subprocess
import sys

import pytest
from mmbench.datasets import layouts

from mmbench.testing.files import animals, write_table
from mmbench.testing.models import PICTURE, PIECES, tiny_clip


def mmbench(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tiny_clip(folder / "weights" / "tiny")
    layouts.sarcasm(folder / "root", samples=40)
    return folder


SETTINGS = {"tokenizer": "tiny", "length": PIECES, "size": PICTURE, "fit": "centre"}


def run(place, *more):
    return mmbench(
        "run", "--methods", "concat", "--datasets", "sarcasm", "--cache", place / "cache",
        "--results", place / "results", "--set", "trainer.epochs=8",
        *[w for k, v in SETTINGS.items() for w in ("--set", f"sarcasm.{k}={v}")], *more,
    )  # fmt: skip


@pytest.mark.slow
def test_adapters_train_on_features_that_are_computed_once_and_clip_itself_can_be_tuned(place):
    done = mmbench(
        "prepare", "sarcasm", "--root", place / "root", "--cache", place / "cache",
        "--weights", place / "weights", *[w for k, v in SETTINGS.items()
                                          for w in ("--set", f"{k}={v}")],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    chosen = ["--encoder", "image=clip:adapter@tiny", "--encoder", "text=clip", "--set",
              "trainer.lr=0.1"]  # fmt: skip
    away = run(place, *chosen, "--weights", place)
    assert away.returncode == 2 and not list(place.glob("results/runs/*/record.json"))
    assert f"no folder {place / 'tiny'} with the pretrained 'tiny'" in away.stderr
    first = run(place, *chosen, "--weights", place / "weights", "--seeds", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    kept = {f: f.stat().st_mtime_ns for f in place.glob("cache/sarcasm/features/*/*.npy")}
    assert len(kept) == 6
    again = run(place, *chosen, "--weights", place / "weights", "--seeds", "3")
    assert again.returncode == 0 and "1 to run" in again.stdout
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
    tuned = run(place, "--encoder", "image=clip:finetune@tiny", "--encoder", "text=clip:finetune",
                "--weights", place / "weights", "--set", "trainer.lr=0.001")  # fmt: skip
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    records = [json.loads(f.read_text()) for f in place.glob("results/runs/*/record.json")]
    sizes = {r["cell"]["encoders"]["text"]: r["parameters"]["total"] for r in records}
    assert sizes["clip:finetune"] > sizes["clip:adapter"]
    scores = [r["final"]["selected"]["fused"]["accuracy"] for r in records]
    assert max(scores) > 0.9  # the text says it


@pytest.mark.slow
def test_your_own_pictures_and_texts(place, tmp_path):
    rows = animals(tmp_path, samples=40, columns=("photo", "told"))
    done = mmbench(
        "prepare", write_table(tmp_path / "my.csv", rows), "--cache", tmp_path / "cache",
        "--weights", place / "weights", "--set", "tokenizer=tiny", "--set", f"words={PIECES}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trained = mmbench(
        "run", "--methods", "concat", "--datasets", "my", "--cache", tmp_path / "cache",
        "--results", tmp_path / "r", "--weights", place / "weights", "--set", "trainer.epochs=2",
        "--encoder", "photo=clip@tiny", "--encoder", "told=clip",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stdout + trained.stderr
