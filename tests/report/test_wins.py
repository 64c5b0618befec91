"""The matrix of wins, ties and losses, counted by hand."""

from mmbench.report.pooling import Pooled
from mmbench.report.wins import MOST, win_tables

BUNDLE = ("validated", "corrected", "common")


def seeds(*values):
    return dict(enumerate(values))


def pool(scores):
    return Pooled("s", "T", BUNDLE, ("a", "b"), scores, (), ("base",))


THREE = {
    "base": [seeds(0.5, 0.6), seeds(0.7, 0.7)],
    "one": [seeds(0.6, 0.6), seeds(0.8, 0.6)],
    "two": [seeds(0.7, 0.7), seeds(0.9, 0.5, 0.9)],
}


def test_pairs_are_counted_over_seeds_and_data_sets():
    (table,) = win_tables([pool(THREE)])
    cells = {name: [entry.text for entry in entries] for name, entries in table.rows}
    assert cells == {
        "1. base": ["", "1/1/2", "1/0/3"],
        "2. one": ["2/1/1", "", "1/0/3"],
        "3. two": ["3/0/1", "3/0/1", ""],
    }
    assert table.columns == ("Method", "1.", "2.", "3.")
    assert "two is above every other row" in table.notes[-1]
    assert "Protocol validated" in table.caption


def test_nobody_is_ahead_where_each_loses_to_another():
    round_about = {
        "a": [seeds(0.3, 0.1, 0.2)], "b": [seeds(0.2, 0.3, 0.1)], "c": [seeds(0.1, 0.2, 0.3)],
    }  # fmt: skip
    (table,) = win_tables([pool(round_about)])
    assert "no row is above every other" in table.notes[-1]


def test_one_row_and_too_many_rows_have_no_matrix():
    assert win_tables([pool({"base": THREE["base"]})]) == []
    assert win_tables([pool({f"m{i}": THREE["base"] for i in range(MOST + 1)})]) == []
