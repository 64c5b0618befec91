"""What ``run --dry-run`` says of cells, and of what it did itself."""

import json
from types import SimpleNamespace

import pytest

from mmbench.cli import plan
from mmbench.launch.estimate import Estimate
from mmbench.sweep import Request, expand


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shown(cache, capsys):
    def show(cells, tried=False, as_json=False):
        states = {cell.id: "waiting" for cell in cells}
        guesses = {cell.id: Estimate(60.0, 2**20, "a basis", tried) for cell in cells}
        plan.show(cells, states, guesses, SimpleNamespace(json=as_json, cache=cache))
        return capsys.readouterr().out

    return show


def cells(cache, **more):
    return expand(Request(methods=["concat"], datasets=["mfeat3"], seeds=[0], **more), cache)


def test_cells_that_differ_in_settings_alone_show_them(shown, cache):
    made = [
        *cells(cache),
        *cells(cache, settings={"trainer.lr": 0.5, "trainer.momentum": 0.0}),
        *cells(cache, protocol="published"),
    ]
    title, *rows = shown(made).splitlines()[:4]
    assert title.endswith("settings")
    for row, cell, said in zip(
        rows,
        made,
        (
            "protocol=validated trainer.lr=0.01 trainer.momentum=0.9",
            "protocol=validated trainer.lr=0.5 trainer.momentum=0.0",
            "protocol=published trainer.lr=0.01 trainer.momentum=0.9",
        ),
        strict=True,
    ):
        assert row.startswith(cell.folder) and row.endswith(said)
    told = json.loads(shown(made, as_json=True))
    assert [row["settings"] for row in told][1].endswith("momentum=0.0")


def test_cells_that_their_names_tell_apart_show_no_settings(shown, cache):
    assert "settings" not in shown(cells(cache, settings={"trainer.lr": 0.5}))


def test_a_plan_says_what_was_done_to_make_it(shown, cache):
    said = shown(cells(cache), tried=True)
    assert "no cell was run and no record written; for 1 estimate without a past run" in said
    assert "trained for a moment, and nothing of that is kept" in said
    assert f"the data is prepared in {cache}" in said
    assert "for a moment" not in shown(cells(cache))
