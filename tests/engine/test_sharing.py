"""How many cells share a GPU follows from measured memory."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.launch.sharing import CONTEXT, SHARE, cells_at_once

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "largest", "cells", "count"),
    [(80 * GIB, 3 * GIB, 100, 18), (80 * GIB, 3 * GIB, 4, 4), (4 * GIB, 6 * GIB, 9, 1)],
)
def test_as_many_cells_as_the_memory_takes(free, largest, cells, count):
    assert cells_at_once(free, largest, cells) == count


@given(st.integers(0, 200 * GIB), st.integers(0, 100 * GIB), st.integers(1, 500))
def test_more_than_one_only_if_they_fit(free, largest, cells):
    count = cells_at_once(free, largest, cells)
    assert 1 <= count <= cells
    assert count == 1 or count * (largest + CONTEXT) <= SHARE * free


@pytest.mark.parametrize("value", ["0", "many", "-1", "1.5"])
def test_a_count_that_is_none_is_refused(value, tmp_path):
    command = [sys.executable, "-P", "-m", "mmbench", "run", "--methods", "concat"]
    command += ["--datasets", "mfeat3", "--results", str(tmp_path / "r"), "--per-gpu", value]
    done = subprocess.run(
        [*command, "--cache", str(tmp_path / "c")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--per-gpu is a number from 1 on, or auto" in done.stderr
