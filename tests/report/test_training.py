"""Modalities over training: which rows are drawn, and where they stand."""

import pytest

from mmbench.report import training
from mmbench.report.build import report
from mmbench.report.study import Study, load_study


@pytest.fixture
def drawn(template, make, tmp_path, monkeypatch):
    """Return a function: the figure that a report makes of methods with these names."""

    def draw(study, names):
        for number, name in enumerate(names):
            folder = tmp_path / "runs" / str(number)
            folder.mkdir(parents=True)
            record = make(template, name, 0, 0.5)
            (folder / "record.json").write_text(record.model_dump_json(exclude_none=True))
        figures = []

        def kept(*args):
            figures.append(training.strength(*args))

        monkeypatch.setattr("mmbench.report.figures.strength", kept)
        monkeypatch.setattr("mmbench.report.build.load_study", lambda name: study)
        report(tmp_path, [study.name], "runs", figures=True)
        return figures[0]

    return draw


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.mark.parametrize("name", ["rebalanced", "everything"])
def test_these_studies_draw_all_their_rows(name):
    assert load_study(name).strength == "all"


def test_all_rows_are_drawn_and_begin_again_below(drawn):
    names = ["concat", *(f"own-{n}" for n in range(6))]
    study = Study(name="s", title="T", baselines=("concat",), rows="found", strength="all")
    figure = drawn(study, names)
    assert titles(figure) == names
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 2 * len(names)  # accuracy and gradient norm
    columns = {axes.get_position().x0 for axes in shown}
    assert len(columns) <= training.ACROSS
    limits = {axes.get_ylim() for axes in shown if axes.get_ylabel().startswith("accuracy")}
    assert len(limits) == 1


def test_named_rows_alone_are_drawn(drawn):
    study = Study(name="s", title="T", baselines=("concat",), rows="found", strength=("own-1",))
    assert titles(drawn(study, ["concat", "own-0", "own-1"])) == ["own-1"]


def test_more_rows_than_can_be_read_are_not_drawn(drawn):
    study = Study(name="s", title="T", baselines=("concat",), rows="found", strength="all")
    assert drawn(study, ["concat", *(f"own-{n}" for n in range(training.MOST))]) is None
