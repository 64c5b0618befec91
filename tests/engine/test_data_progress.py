"""A long preparation shows a bar on a terminal, and none where nothing is left to do."""

import io
import sys

import pytest

from mmbench.data.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("total", "done"), [(0, 0), (3, 3)])
def test_there_is_no_bar_without_work(total, done, monkeypatch):
    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    with Progress(total, done, "hashing"):
        pass
    assert "hashing" not in seen.getvalue()


def test_there_is_a_bar_with_work(monkeypatch):
    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    with Progress(3, 0, "hashing") as progress:
        progress.advance(3)
    assert "hashing" in seen.getvalue()
