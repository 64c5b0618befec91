"""What is printed can be read on a narrow terminal, and found by grep behind a pipe."""

import io

import pytest
from rich.console import Console

from mmbench.cli import output

CELL = "avdigits.unimodal-audio.s0.0823c929efce"
ROWS = [
    {"cell": CELL, "state": "interrupted", "seconds": 10.1, "MiB": 853,
     "estimated_from": "a short calibration on one batch, as no record of its kind was found"},
    {"cell": "mfeat3.sum.s0.0d2e171a5032", "state": "done", "seconds": None, "MiB": None,
     "estimated_from": None},
]  # fmt: skip


@pytest.mark.parametrize("width", [70, 80, 100, 200])
def test_no_name_is_broken_on_a_narrow_terminal(width):
    out = io.StringIO()
    texts = [[str(value) for value in row.values()] for row in ROWS]
    Console(file=out, width=width).print(output.grid(list(ROWS[0]), texts, width))
    lines = out.getvalue().splitlines()
    assert any(line.startswith(CELL) for line in lines)
    assert max(map(len, lines)) <= width


def test_behind_a_pipe_every_row_is_one_line(capsys):
    output.print_rows(ROWS, False, "")
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.endswith("estimated from")
    assert first.endswith(ROWS[0]["estimated_from"])
    assert second == second.rstrip()


def test_what_looks_like_markup_is_printed(capsys):
    output.print_rows([{"meaning": "one of [bold] and [audio]"}], False, "")
    assert "[bold] and [audio]" in capsys.readouterr().out
