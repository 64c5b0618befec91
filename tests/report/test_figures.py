"""Figures: the same bytes for the same numbers, marks where the numbers are."""

import dataclasses
import subprocess
import sys
from itertools import combinations

import pytest
from matplotlib.text import Text

from mmbench.report.drawing import styled
from mmbench.report.figures import forest, heat, knob, rank_diagram, sweep, write_figures
from mmbench.report.pooling import Pooled

BUNDLE = ("validated", "corrected", "common")


def seeds(*values):
    return dict(enumerate(values))


@pytest.fixture
def pool():
    scores = {
        "base": [seeds(0.5, 0.6), seeds(0.7, 0.7)],
        "one": [seeds(0.6, 0.7), seeds(0.8, 0.8)],
        "two": [seeds(0.4, 0.6), seeds(0.7, 0.6)],
    }
    return Pooled("s", "T", BUNDLE, ("a", "b"), scores, (), ("base",))


@pytest.fixture
def swept():
    scores = {"base": [seeds(0.5, 0.6)]} | {
        f"alpha = {x}": [seeds(0.5 + x / 10, 0.6 + x / 10)] for x in (0.0, 0.5, 1.0)
    }
    return Pooled("s", "T", BUNDLE, ("a",), scores, (), ("base",))


def test_forest_marks_stand_at_the_differences(pool):
    with styled():
        axes = forest(pool).axes[0]
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert marks == pytest.approx([10.0, -5.0])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["one", "two"]


def test_heat_map_prints_every_score(pool):
    with styled():
        axes = heat(pool).axes[0]
    assert [t.get_text() for t in axes.texts] == ["55.0", "70.0", "65.0", "80.0", "50.0", "65.0"]


def test_rank_diagram_warns_of_too_few_data_sets(pool):
    with styled():
        figure = rank_diagram(pool)
    assert "too few" in figure.get_suptitle()
    axes = figure.axes[0]
    assert next(t.get_text() for t in axes.get_yticklabels()) == "one (1.00)"


def test_sweep_draws_the_mean_over_the_option(swept):
    with styled():
        curve = sweep(swept).axes[0].lines[0]
    assert curve.get_xdata().tolist() == [0.0, 0.5, 1.0]
    assert curve.get_ydata() == pytest.approx([55.0, 60.0, 65.0])


def test_knob_draws_the_gain_over_the_option(pool):
    turned = dataclasses.replace(pool, knob=("imbalance", (0.2, 0.8)))
    with styled():
        axes = knob(turned).axes[0]
    one, two = (bar.lines[0] for bar in axes.containers)
    assert one.get_ydata() == pytest.approx([10.0, 10.0])
    assert two.get_ydata() == pytest.approx([-5.0, -5.0])
    assert sorted(one.get_xdata()) == list(one.get_xdata())
    assert knob(pool) is None


def test_knob_draws_how_much_there_is_to_gain(pool):
    turned = dataclasses.replace(pool, knob=("imbalance", (0.2, 0.8)), ceilings=(0.9, 0.75))
    with styled():
        axes = knob(turned).axes[0]
    (room,) = (line for line in axes.lines if line.get_label() == "best possible")
    assert room.get_ydata() == pytest.approx([90.0 - 55.0, 75.0 - 70.0])


@pytest.mark.parametrize("drawn", [forest, heat, rank_diagram, sweep, knob])
@pytest.mark.parametrize("many", [False, True], ids=["few rows", "many rows"])
def test_no_text_leaves_the_figure_or_lies_on_other_text(pool, swept, drawn, many):
    chosen = swept if drawn is sweep else pool
    if drawn is knob:
        chosen = dataclasses.replace(pool, knob=("imbalance", (0.2, 0.8)))
    if many:
        more = {f"a method, as its authors trained it {i}": v for i in range(12)
                for v in [chosen.scores["base"]]}  # fmt: skip
        more = {} if drawn in (sweep, knob) else more
        names = tuple(f"{name} (option=0.{i})" for i, name in enumerate(chosen.datasets))
        chosen = dataclasses.replace(
            chosen, scores=chosen.scores | more, datasets=names, title="A long title " * 12
        )
    with styled():
        figure = drawn(chosen)
        assert faults(figure) == []


def faults(figure):
    """Return the texts that are cut off, and the pairs that lie on one another."""
    with pytest.MonkeyPatch.context() as patch:
        drawn, draw = [], Text.draw
        patch.setattr(Text, "draw", lambda self, *a, **k: drawn.append(self) or draw(self, *a, **k))
        figure.canvas.draw()
    shown = [t for t in drawn if t.get_visible() and t.get_text().strip()]
    boxes = {t: t.get_window_extent() for t in shown}
    page = figure.bbox
    cut = [t.get_text() for t, box in boxes.items()
           if min(box.x0, box.y0, page.x1 - box.x1, page.y1 - box.y1) < -1]  # fmt: skip
    both = [(a.get_text(), b.get_text()) for a, b in combinations(boxes, 2)
            if boxes[a].padded(-1).overlaps(boxes[b].padded(-1))]  # fmt: skip
    return cut + both


def test_settings_of_one_dataset_are_not_ranked(pool, tmp_path):
    turned = dataclasses.replace(pool, knob=("imbalance", (0.2, 0.8)))
    drawn = {f.stem for p in (pool, turned) for f in write_figures([p], tmp_path / p.place)}
    assert {"s-heat", "s-ranks", "s-knob"} <= drawn
    assert not (tmp_path / turned.place / "s-ranks.svg").exists()


def test_a_study_without_a_sweep_has_no_sweep_figure(pool):
    assert sweep(pool) is None


def test_figures_are_the_same_bytes_each_time(pool, tmp_path):
    first, second = (write_figures([pool], tmp_path / name) for name in ("one", "two"))
    assert {f.suffix for f in first} == {".svg", ".pdf"}
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert b"CreationDate" not in a.read_bytes()
        assert b"<dc:date>" not in a.read_bytes()


def test_a_figure_of_the_published_protocol_says_so(pool, tmp_path):
    leaky = Pooled("s", "T", ("published", *BUNDLE[1:]), pool.datasets, pool.scores, (), ("base",))
    with styled():
        assert "EPOCH SELECTED ON TEST" in forest(leaky).get_suptitle()
    assert all("-published" in f.name for f in write_figures([leaky], tmp_path))


def test_report_without_figures_does_not_import_matplotlib():
    code = "import sys, mmbench.report.build; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
