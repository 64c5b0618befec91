"""From records to tables: nothing mixed, nothing silent, numbers as worked by hand."""

import io
import random
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats

from mmbench.cli.output import printing
from mmbench.record import Record
from mmbench.report.render import FORMS, markdown, print_table
from mmbench.report.study import Study
from mmbench.report.summary import mean_std, paired_difference, ranks
from mmbench.store import iter_records

RECORDS = Path(__file__).parents[2] / "results" / "records"
STUDY = Study(name="s", title="T", rows=("concat", "sum", "iprm"), baselines=("concat", "sum"))


def grid(template, make):
    values = {"concat": (0.5, 0.6, 0.7), "sum": (0.4, 0.5, 0.6), "iprm": (0.7, 0.7, 0.9)}
    return [make(template, m, s, v) for m, vs in values.items() for s, v in enumerate(vs)]


def test_mean_spread_best_second_and_difference(template, make, score_tables):
    text = markdown(score_tables(STUDY, grid(template, make)))
    half = stats.t.ppf(0.975, 2) * stats.tstd([0.2, 0.1, 0.2]) / 3**0.5
    assert "| concat | <u>60.00 ± 10.00</u> |" in text
    assert "| iprm | **76.67 ± 11.55** |" in text
    assert f"+16.67 ± {100 * half:.2f}" in text
    assert "iprm against concat, the best baseline" in text
    assert "over 3 seeds" in text


def test_order_of_records_does_not_matter(template, make, score_tables):
    records = grid(template, make)
    shuffled = records[:]
    random.Random(0).shuffle(shuffled)
    first, second = (score_tables(STUDY, r) for r in (records, shuffled))
    assert first == second


def test_protocols_and_settings_are_never_mixed(template, make, score_tables):
    longer = template.cell.trainer.model_copy(update={"epochs": 99})
    asked = {"dataset.preset": "hard"}
    records = [
        *grid(template, make),
        make(template, "concat", 0, 0.99, protocol="published"),
        make(template, "concat", 0, 0.98, trainer=longer),
        make(template, "concat", 0, 0.97, changed=asked),
    ]
    tables = score_tables(STUDY, records)
    assert len(tables) == 4
    published = [t for t in tables if "EPOCH SELECTED ON TEST" in t.caption]
    assert len(published) == 1


def test_refused_and_failed_cells_are_shown_and_others_named(template, make, score_tables):
    refused = make(template, "sum", 0, 0.0).model_copy(
        update={"status": "refused", "reason": "needs two", "final": {}}
    )
    text = markdown(score_tables(STUDY, [make(template, "concat", 0, 0.5), refused]))
    assert "| sum | *refused* |" in text
    assert "sum: refused: needs two." in text
    assert "Not run here: iprm." in text


def test_one_seed_concludes_nothing(template, make, score_tables):
    records = [make(template, "concat", 0, 0.5), make(template, "iprm", 0, 0.9)]
    text = markdown(score_tables(STUDY, records))
    assert "nothing can be concluded" in text
    assert "90.00 |" in text


def test_a_row_of_fewer_seeds_is_told(template, make, score_tables):
    records = [*grid(template, make)[:-1], make(template, "iprm", 3, 0.9)]
    text = markdown(score_tables(STUDY, records))
    assert "Of 4 seeds, these rows have fewer: concat (3), sum (3), iprm (3)." in text
    assert "have fewer" not in markdown(score_tables(STUDY, grid(template, make)))


@pytest.mark.parametrize("width", [50, 80, 100, 140])
def test_no_number_is_cut_short_on_a_narrow_terminal(width, template, make, score_tables):
    (table,) = score_tables(STUDY, grid(template, make))
    out = io.StringIO()
    print_table(table, Console(file=out, width=width))
    assert "…" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= width
    for _, entries in table.rows:
        assert all(e.text in out.getvalue() for e in entries)


def test_behind_a_pipe_no_line_of_a_table_is_wrapped(template, make, score_tables, capsys):
    (table,) = score_tables(STUDY, grid(template, make))
    with printing() as shown:
        print_table(table, shown)
    lines = capsys.readouterr().out.splitlines()
    assert {table.heading, table.caption, *table.notes} <= set(lines)
    assert all(line == line.rstrip() for line in lines)


def test_latex_is_escaped_and_balanced(template, make, score_tables):
    text = FORMS["tex"].text(score_tables(STUDY, grid(template, make)))
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert r"\textbf{76.67 $\pm$ 11.55}" in text
    assert "±" not in text
    assert "Δ" not in text


def test_signs_and_options_survive_latex(template, make, score_tables):
    records = [make(template, "concat", 0, 0.5), make(template, "sum", 0, 0.4)]
    refused = make(template, "iprm", 0, 0.0).model_copy(
        update={"status": "refused", "reason": "set --seeds, not 10-1", "final": {}}
    )
    text = FORMS["tex"].text(score_tables(STUDY, [*records, refused]))
    assert " $-$10.00 " in text
    assert "-{}-seeds, not 10-1" in text


def test_csv_holds_the_raw_numbers(template, make, score_tables):
    lines = FORMS["csv"].text(score_tables(STUDY, grid(template, make))).splitlines()
    row = next(line for line in lines if line.startswith("s-toy,concat,Accuracy,"))
    assert float(row.split(",")[3]) == pytest.approx(0.6)


def test_small_statistics_match_hand_worked_cases():
    assert mean_std([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_std([1.0]) == (1.0, None)
    assert ranks([0.1, None, 0.3, 0.3]) == [1, None, 0, 0]
    mean, half, shared = paired_difference({0: 1.0, 1: 2.0, 5: 9.0}, {0: 0.0, 1: 3.0})
    assert (mean, shared) == (0.0, 2)
    assert half == pytest.approx(stats.t.ppf(0.975, 1) * 2**0.5 / 2**0.5)


def test_reference_records_are_valid_and_finished():
    records = list(iter_records(RECORDS))
    assert len(records) >= 39
    assert all(isinstance(r, Record) for r in records)
    # what fails in the reference does so for a reason that the table can state
    failures = [r.failure.kind for r in records if r.failure]
    assert set(failures) <= {"NonFiniteLoss"}
    assert all(r.cell_id == r.cell.id for r in records)
    assert all(r.environment.clean for r in records)


def test_rows_of_other_epochs_have_no_difference_and_are_not_best(template, make, score_tables):
    longer = template.cell.trainer.model_copy(update={"epochs": 200, "lr": 0.5})
    rows = ("concat", {"method": "iprm", "preset": "authors"}, "sum")
    study = Study(name="s", title="T", rows=rows, baselines=("concat",))
    records = [
        make(template, m, seed, value + seed / 100, **more)
        for m, value, more in (
            ("concat", 0.5, {}), ("sum", 0.6, {}),
            ("iprm", 0.9, {"preset": "authors", "trainer": longer}),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    (table,) = score_tables(study, records)
    rows = {name: dict(zip(table.columns[1:], e, strict=True)) for name, e in table.rows}
    assert [rows["iprm"][c].text for c in ("Epochs", "Rate", "Δ Accuracy")] == [
        "200", "0.5", "other epochs"
    ]  # fmt: skip
    assert rows["concat"]["Epochs"].text == "30"
    assert (rows["iprm"]["Accuracy"].style, rows["sum"]["Accuracy"].style) == ("plain", "best")
    assert any("Epochs differ between rows" in note for note in table.notes)
    assert table.notes[-1].startswith("sum against concat")


def spread_over(template, make, score_tables, *gaps):
    """Return the conclusion on iprm, that many test samples above the best of two baselines."""
    samples = template.data.sizes["test"]
    values = {"concat": lambda gap: 0.5, "sum": lambda gap: 0.3,
              "iprm": lambda gap: 0.5 + gap / samples}  # fmt: skip
    records = [make(template, m, s, of(gap)) for m, of in values.items()
               for s, gap in enumerate(gaps)]  # fmt: skip
    (table,) = score_tables(STUDY, records)
    return table.notes[-1]


def test_differences_that_hardly_vary_conclude_nothing(template, make, score_tables):
    for gaps in ((2, 2, 2), (1, 2, 2)):
        said = spread_over(template, make, score_tables, *gaps)
        assert "less than one of the test samples" in said
        assert "does not contain 0" not in said
    assert "does not contain 0 (one" in spread_over(template, make, score_tables, 20, 22, 24)
    assert "contains 0: no" in spread_over(template, make, score_tables, 0, 0, 0)


def test_nothing_is_below_the_best_of_several_baselines(template, make, score_tables):
    said = spread_over(template, make, score_tables, -20, -22, -24)
    assert "by luck in part: nothing is concluded" in said
