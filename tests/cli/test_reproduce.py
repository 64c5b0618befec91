"""A cell that is run again gives the same numbers, and a changed record is noticed."""

import subprocess
import sys

import pytest


def mmbench(*words):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_cell_is_reproduced_bit_for_bit_and_a_forged_record_is_not(tmp_path):
    places = ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    done = mmbench(
        "run", "--methods", "concat", "--datasets", "mfeat3", "--seeds", "3,", "--threads", "1",
        "--device", "cpu", "--set", "trainer.epochs=2", *places,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "results").glob("runs/*/record.json")
    again = ["reproduce", file.parent.name.split(".")[-1], "--device", "cpu", *places]
    same = mmbench(*again, "--features", "pca")
    assert same.returncode == 0, same.stdout + same.stderr
    (drawn,) = (tmp_path / "results").glob("figures/features-pca-mfeat3.concat.s3.*.svg")
    assert f"wrote {drawn}" in same.stdout
    assert "agree bit for bit" in same.stdout
    assert "--seeds 3, " in same.stdout
    file.write_text(file.read_text().replace('"loss": ', '"loss": 1', 1))
    forged = mmbench(*again)
    assert forged.returncode == 1
    assert "epoch 1 loss" in forged.stdout
    assert "2 of" not in forged.stdout


def test_features_are_projected_by_a_known_name():
    done = mmbench("reproduce", "0123abcd", "--features", "umap")
    assert done.returncode == 2
    assert "--features is pca or tsne; found 'umap'" in done.stderr
