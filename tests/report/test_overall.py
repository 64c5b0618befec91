"""What a study says over its datasets, worked by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from mmbench.report.frame import to_frame
from mmbench.report.overall import conclusion, overall_tables
from mmbench.report.pooling import pools, remarks
from mmbench.report.rows import groups
from mmbench.report.statistics import Comparison
from mmbench.report.study import Study

STUDY = Study(name="s", title="T", rows=("concat", "sum", "iprm"), baselines=("concat", "sum"))


@pytest.fixture
def build(template, make):
    def built(scores):
        records = [
            make(template, method, seed, value, dataset=dataset)
            for dataset, methods in scores.items()
            for method, values in methods.items()
            for seed, value in enumerate(values)
        ]
        tasks = {r.cell.dataset: r.task for r in records}
        return pools(STUDY, groups(STUDY, to_frame(records), tasks))

    return built


TWO = {
    "one": {"concat": (0.5, 0.6), "sum": (0.4, 0.4), "iprm": (0.7, 0.7)},
    "two": {"concat": (0.8, 0.8), "sum": (0.9, 0.8), "iprm": (0.9, 0.9)},
}


def test_differences_are_paired_by_seed_and_averaged_over_data_sets(build):
    (pool,) = build(TWO)
    assert pool.reference == "concat"
    iprm = next(c for c in pool.comparisons if c.name == "iprm")
    assert iprm.mean == pytest.approx((0.15 + 0.1) / 2)
    assert iprm.p == pytest.approx(2 / 16)
    assert iprm.adjusted == pytest.approx(4 / 16)


def test_mean_ranks_and_warning_stand_in_the_table(build):
    (table,) = overall_tables(build(TWO))
    rank = {name: entries[1].value for name, entries in table.rows}
    assert rank == {"concat": 2.5, "sum": 2.5, "iprm": 1.0}
    assert any("Mean ranks over 2 datasets mean little" in note for note in table.notes)
    assert dict(table.rows)["iprm"][-1].text == "4/0/0"
    assert "none could reach it" in table.notes[-1]


def test_a_method_missing_on_one_data_set_is_left_out_and_named(build):
    scores = {"one": TWO["one"], "two": {k: v for k, v in TWO["two"].items() if k != "sum"}}
    (pool,) = build(scores)
    assert list(pool.scores) == ["concat", "iprm"]
    (table,) = overall_tables([pool])
    assert "Left out, without a score on every dataset: sum." in table.notes


def test_protocols_are_pooled_apart(template, make):
    records = [make(template, m, 0, 0.5, protocol=p) for m in ("concat", "iprm")
               for p in ("validated", "published")]  # fmt: skip
    found = pools(STUDY, groups(STUDY, to_frame(records), {"toy": records[0].task}))
    assert sorted(pool.bundle[0] for pool in found) == ["published", "validated"]


def test_conclusion_tells_above_from_below():
    def made(name, mean, adjusted):
        return Comparison(name, mean, 0, 0, adjusted, adjusted, None, 12)

    text = conclusion([made("a", 0.1, 0.01), made("b", -0.1, 0.02), made("c", 0.2, 0.3)], "r")
    assert "a above r; b below r" in text
    assert "c" not in text.split("for the other")[0].replace("concluded", "").replace(
        "correction", ""
    )


def test_nothing_is_below_a_reference_that_was_chosen_on_the_same_scores():
    compared = [Comparison("a", -0.1, -0.2, -0.05, 0.001, 0.002, None, 12)]
    assert "a below r" in conclusion(compared, "r")
    assert "no row is above r" in conclusion(compared, "r", chosen=True)


def test_of_several_baselines_the_table_says_that_the_best_was_chosen(build):
    (table,) = overall_tables(build(TWO))
    assert any("concat is the best of 2 baselines on these same scores" in n for n in table.notes)


def test_settings_of_a_knob_are_as_many_pairs_as_there_are_seeds(build):
    (pool,) = build(TWO)
    turned = replace(pool, knob=("imbalance", (0.2, 0.8)))
    iprm = next(c for c in turned.comparisons if c.name == "iprm")
    assert (iprm.pairs, iprm.p) == (2, 2 / 4)
    assert iprm.mean == pytest.approx((0.15 + 0.1) / 2)
    (table,) = overall_tables([turned])
    assert dict(table.rows)["iprm"][-1].text == "4/0/0"
    assert any("Mean ranks over 1 dataset mean little" in note for note in table.notes)
    assert any("counts as one pair" in note for note in table.notes)


def test_rows_of_other_epochs_are_left_out_and_named(template, make):
    longer = template.cell.trainer.model_copy(update={"epochs": 200})
    rows = ("concat", {"method": "iprm", "preset": "authors"}, "sum")
    study = Study(name="s", title="T", rows=rows, baselines=("concat",))
    records = [
        make(template, "concat", 0, 0.5), make(template, "sum", 0, 0.6),
        make(template, "iprm", 0, 0.9, preset="authors", trainer=longer),
    ]  # fmt: skip
    (pool,) = pools(study, groups(study, to_frame(records), {"toy": records[0].task}))
    assert list(pool.scores) == ["concat", "sum"]
    (table,) = overall_tables([pool])
    assert "Left out, trained for other epochs than concat: iprm." in table.notes


def retrained(template, make):
    """Return records of one dataset by two trainings, and of another by the usual one alone."""
    short = {
        "changed": {"trainer.epochs": 3},
        "trainer": template.cell.trainer.model_copy(update={"epochs": 3}),
    }
    return [
        make(template, method, seed, 0.5 + seed / 10, dataset=dataset, **more)
        for method in ("concat", "iprm")
        for seed in (0, 1)
        for dataset, more in (("one", {}), ("two", {}), ("two", short))
    ]


def test_a_dataset_trained_in_two_ways_is_pooled_once_and_that_is_told(template, make):
    records = retrained(template, make)
    tasks = dict.fromkeys(("one", "two"), records[0].task)
    (pool,) = pools(STUDY, groups(STUDY, to_frame(records), tasks))
    assert pool.datasets == ("one", "two")
    assert "s: not pooled with one, two: two (trainer.epochs=3), trained with other settings" in (
        list(remarks(pool))
    )
    (table,) = overall_tables([pool])
    assert "Left out, trained with other settings: two (trainer.epochs=3)." in table.notes


def test_a_training_that_all_share_is_pooled(template, make):
    records = [r for r in retrained(template, make) if r.cell.changed]
    (pool,) = pools(STUDY, groups(STUDY, to_frame(records), {"two": records[0].task}))
    assert pool.datasets == ("two (trainer.epochs=3)",)
    assert pool.apart == ()


def test_what_is_not_pooled_is_told_with_the_reason(build):
    (pool,) = build({"one": TWO["one"], "two": {"iprm": (0.7, 0.7)}})
    assert list(remarks(pool)) == [
        "s: no statistics over one, two: no baseline has a score on each",
        "s: not pooled, without a score on two: concat, sum",
    ]
    (pool,) = build({"one": {"concat": (0.5, 0.6)}})
    assert list(remarks(pool)) == [
        "s: no statistics over one: no row but concat has a score, for the same epochs, on each"
    ]
    assert not list(remarks(build(TWO)[0]))


def test_rows_of_one_modality_each_are_not_told_as_missing(template, make):
    study = Study(name="s", title="T", rows=("concat", "unimodal"), baselines=("concat",))
    records = [
        make(template, method, 0, 0.5, dataset=dataset, label=label)
        for dataset, modality in (("one", "audio"), ("two", "text"))
        for method, label in (("concat", "concat"), ("unimodal", f"unimodal-{modality}"))
    ]
    tasks = dict.fromkeys(("one", "two"), records[0].task)
    (pool,) = pools(study, groups(study, to_frame(records), tasks))
    assert pool.partial == ("unimodal-audio", "unimodal-text")
    assert not pool.lacking


def test_the_study_of_a_knob_says_what_no_classifier_exceeds():
    from mmbench.report.build import load_results
    from mmbench.report.study import load_study

    loaded = load_results(Path(__file__).parents[2] / "results", "records")
    study = load_study("imbalance")
    (pool,) = pools(study, groups(study, loaded.frame, loaded.tasks))
    assert [round(each, 3) for each in pool.ceilings] == [0.974, 0.977, 0.985, 0.992, 0.997]
    (table,) = overall_tables([pool])
    assert any("exceeds 97.4, 97.7, 98.5, 99.2, 99.7 (Bayes" in note for note in table.notes)
