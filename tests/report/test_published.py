"""Published numbers stand beside ours and are never taken for them."""

from pathlib import Path

import pytest

from mmbench.errors import UserError
from mmbench.report.build import report
from mmbench.report.frame import to_frame
from mmbench.report.published import HEADER, Number, load_published, published_tables
from mmbench.report.render import FORMS, markdown
from mmbench.report.rows import groups
from mmbench.report.study import Study, load_study

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
STUDY = Study(
    name="s", title="T", baselines=("concat",),
    rows=("concat", {"method": "iprm", "name": "Mine", "published": "iprm-x"}),
)  # fmt: skip


@pytest.fixture
def numbers(tmp_path):
    lines = [",".join(HEADER), "s,toy,sum,accuracy,,,not printed",
             "s,toy,concat,accuracy,55.00,,", "s,toy,iprm_x,accuracy,70.50,,",
             "s,toy,concat,seconds_per_epoch,190.0,0.25,",
             "s,far,concat,accuracy[audio],40.00,,"]  # fmt: skip
    (tmp_path / "source.csv").write_text("\n".join(lines))
    return load_published(tmp_path)


@pytest.fixture
def tables(numbers, template, make):
    records = [make(template, "concat", s, v) for s, v in enumerate((0.5, 0.6))]
    found = groups(STUDY, to_frame(records), {"toy": records[0].task})
    return published_tables(STUDY, found, numbers)


def test_difference_is_ours_minus_published(tables, template, make, numbers):
    records = [make(template, "iprm", 0, 0.7)]
    found = groups(STUDY, to_frame(records), {"toy": records[0].task})
    (toy, _) = published_tables(STUDY, found, numbers)
    row = dict(toy.rows)["Mine"]
    assert [e.text for e in row] == ["70.50", "70.00", "-0.50"]


def test_published_numbers_are_told_apart_by_column_style_and_caption(tables):
    toy = tables[0]
    assert toy.columns[1:] == (
        "Accuracy, published", "Accuracy, ours", "Accuracy, ours − published"
    )  # fmt: skip
    for _, entries in toy.rows:
        assert entries[0].style == ("cited" if entries[0].text else "plain")
        assert all(e.style != "cited" for e in entries[1:])
    assert "not measured here" in toy.caption
    assert "protocol validated" in toy.caption
    assert "*55.00*" in markdown(tables)
    assert r"\textit{55.00}" in FORMS["tex"].text(tables)


def test_what_a_source_leaves_open_stands_under_its_numbers(tables):
    assert dict(tables[0].rows)["sum"][0].text == ""
    assert tables[0].notes[0] == "Published, sum: not printed."


def test_what_was_not_run_is_missing(tables):
    far = tables[1]
    assert [e.text for e in far.rows[0][1]] == ["40.00", "missing", ""]
    assert "nothing was run on this dataset" in far.caption


def test_from_runs_a_dataset_on_which_nothing_was_run_has_no_table(template, make, tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "a-paper.csv").write_text(
        f"{','.join(HEADER)}\nnaive,toy,iprm,accuracy,80.00,,\nnaive,far,iprm,accuracy,81.00,,\n"
    )
    for file in ("runs/1/record.json", "records/1.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        record = make(template, "iprm", 0, 0.7)
        (tmp_path / file).write_text(record.model_dump_json(exclude_none=True))
    shown = {}
    for source in ("runs", "records"):
        report(tmp_path, ["naive"], source, figures=False)
        text = (tmp_path / "tables" / "naive-published.md").read_text()
        shown[source] = [name for name in ("80.00", "81.00") if name in text]
    assert shown == {"runs": ["80.00"], "records": ["80.00", "81.00"]}


def test_seconds_are_read_with_their_spread(numbers):
    (seconds,) = (n for n in numbers if n.metric == "seconds_per_epoch")
    assert (seconds.value, seconds.std) == (190.0, 0.25)


@pytest.mark.parametrize("value", ["", "n/a", "nan", "101", "-1"])
def test_a_value_that_is_no_percentage_is_refused(value, tmp_path):
    (tmp_path / "x.csv").write_text(f"{','.join(HEADER)}\ns,d,m,accuracy,{value},,\n")
    with pytest.raises(UserError, match="line 2"):
        load_published(tmp_path)


def test_other_columns_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has the columns"):
        load_published(tmp_path)


@pytest.mark.parametrize(
    "name", ["naive", "rebalanced", "ablation", "trimodal-mixup", "pretrained", "cost"]
)
def test_every_published_row_of_a_study_is_one_of_its_rows(name):
    study = load_study(name)
    known = {row.published or row.name or row.method for row in study.listed} | {"iprm"}
    mine = {n.method for n in load_published(PUBLISHED) if n.study == name}
    assert mine
    assert {m if not m.startswith("unimodal-") else "unimodal" for m in mine} <= known


def test_many_scores_get_a_row_each():
    cited = [Number("s", "far", "concat", m, "accuracy", 50.0, "x") for m in ("fused", "a", "b")]
    (table,) = published_tables(STUDY, [], cited)
    assert table.columns == ("Method", "published", "ours", "ours − published")
    assert [name for name, _ in table.rows] == [
        "concat: Accuracy", "concat: Accuracy, a alone", "concat: Accuracy, b alone"
    ]  # fmt: skip
