"""Which records fill which row: options and bundles are told apart, and nothing is left out."""

import json
from pathlib import Path

import pytest

from mmbench.cli.asking import Options, make_cells
from mmbench.errors import UserError
from mmbench.report.build import report
from mmbench.report.render import FORMS, markdown
from mmbench.report.study import Study, load_study, study_names

STUDY = Study(name="s", title="T", baselines=("concat",), rows=(
    "concat", {"method": "iprm", "name": "w/o EMA", "set": {"ema": "off"}}, "iprm",
))  # fmt: skip


def line(text, name):
    return next(row for row in text.splitlines() if row.startswith(f"| {name} |"))


def test_options_fill_their_own_rows(template, make, score_tables):
    records = [
        make(template, "concat", 0, 0.5),
        make(template, "iprm", 0, 0.7),
        make(template, "iprm", 0, 0.6, changed={"method.ema": "off"}),
        make(template, "iprm", 0, 0.9, changed={"method.ema": "off", "method.alpha": 0.1}),
    ]
    text = markdown(score_tables(STUDY, records))
    assert "60.00" in line(text, "w/o EMA")
    assert "70.00" in line(text, "iprm")
    assert "90.00" not in text


def test_what_no_study_shows_is_in_everything(template, make, score_tables):
    records = [
        make(template, "iprm", 0, 0.9, changed={"method.alpha": 0.1}),
        make(template, "my-own", 0, 0.8),
    ]
    text = markdown(score_tables(load_study("everything"), records))
    assert "90.00" in line(text, "iprm (alpha=0.1)")
    assert "80.00" in line(text, "my-own")


def write(results, records):
    for number, record in enumerate(records):
        folder = results / "runs" / str(number)
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(record.model_dump_json(exclude_none=True))


def names(built):
    return list(built.tables)


def test_a_report_shows_the_studies_that_the_records_are_about(template, make, tmp_path):
    write(tmp_path, [make(template, "concat", 0, 0.5), make(template, "iprm", 0, 0.7)])
    assert names(report(tmp_path, [], "runs")) == ["naive", "rebalanced"]


@pytest.mark.parametrize(
    ("methods", "together", "shown"),
    [(("concat", "iprm"), False, True), (("concat", "iprm"), True, False),
     (("mla", "iprm"), False, False), (("concat",), False, False)],
)  # fmt: skip
def test_a_study_of_cost_is_shown_unasked_where_its_baseline_and_a_row_ran_one_at_a_time(
    methods, together, shown, template, make, tmp_path
):
    times = {
        number: {"started": f"2026-01-01T00:0{number}:00+00:00",
                 "finished": f"2026-01-01T00:0{2 if together else number}:59+00:00"}
        for number in range(len(methods))
    }  # fmt: skip
    write(tmp_path, [
        make(template, method, 0, 0.5).model_copy(update=times[number])
        for number, method in enumerate(methods)
    ])  # fmt: skip
    assert ("cost" in names(report(tmp_path, [], "runs", figures=False))) == shown
    assert names(report(tmp_path, ["cost"], "runs", figures=False)) == ["cost"]


def test_rows_that_were_not_run_are_named_below_the_table(template, make, score_tables):
    records = [
        make(template, "iprm", 0, 0.6, changed={"method.ema": "off"}),
        make(template, "concat", 0, 0.5, dataset="other"),
        make(template, "iprm", 0, 0.5, dataset="other", changed={"method.ema": "off"}),
    ]
    other, toy = score_tables(STUDY, records)
    assert [[name for name, _ in t.rows] for t in (other, toy)] == [["concat", "w/o EMA"],
                                                                    ["w/o EMA"]]  # fmt: skip
    assert toy.notes[0] == "Not run here: concat; iprm."
    assert "missing" not in markdown([other, toy])


def test_a_row_that_was_run_with_another_recipe_alone_stays_and_is_missing(
    template, make, score_tables
):
    records = [
        make(template, "iprm", 0, 0.6, changed={"method.ema": "off"}),
        make(template, "iprm", 0, 0.7, changed={"method.ema": "off"}, fidelity="released"),
        make(template, "concat", 0, 0.5),
    ]
    plain, released = score_tables(STUDY, records)
    assert dict(released.rows)["concat"][0].text == "missing"
    assert plain.notes[0] == released.notes[0] == "Not run here: iprm."


def test_rows_that_were_not_run_are_in_no_table_of_a_study(template, make, tmp_path):
    write(tmp_path, [make(template, "iprm", 0, 0.7), make(template, "mla", 0, 0.6)])
    report(tmp_path, ["rebalanced", "cost"], "runs", figures=False)
    for kind in ("rebalanced", "rebalanced-imbalance", "cost"):
        text = (tmp_path / "tables" / f"{kind}.md").read_text()
        assert "missing" not in text and "| joint |" not in text, kind
        assert "Not run here: concat; joint; ensemble; ogr-gb; " in text, kind


def test_a_report_leaves_nothing_out(template, make, tmp_path):
    write(tmp_path, [
        make(template, "iprm", 0, 0.7, changed={"method.ema": "off"}),
        make(template, "my-own", 0, 0.8),
    ])  # fmt: skip
    built = report(tmp_path, [], "runs")
    assert names(built) == ["ablation", "everything"]
    assert "| my-own |" in (tmp_path / "tables" / "everything.md").read_text()


def test_methods_that_a_bundle_leaves_alone_stand_beside_it(template, make, score_tables):
    plain = make(template, "concat", 0, 0.5, unaffected=("released",))
    records = [
        plain,
        make(template, "sum", 0, 0.4),
        make(template, "iprm", 0, 0.7),
        make(template, "iprm", 0, 0.6, fidelity="released"),
    ]
    study = Study(name="s", title="T", rows=("concat", "sum", "iprm"), baselines=("concat",))
    corrected, released = score_tables(study, records)
    assert "released fidelity" in released.caption
    assert [name for name, entries in released.rows if entries[0].value] == ["concat", "iprm"]
    assert dict(released.rows)["sum"][0].text == "missing"
    assert dict(corrected.rows)["iprm"][0].value == pytest.approx(0.7)


def test_bundles_can_be_rows(template, make, score_tables):
    rows = (
        {"method": "iprm", "fidelity": "corrected", "preset": "common"},
        {"method": "iprm", "name": "released", "fidelity": "released", "preset": "common"},
        {"method": "iprm", "name": "recipe", "fidelity": "corrected", "preset": "authors"},
    )
    longer = template.cell.trainer.model_copy(update={"epochs": 99})
    records = [
        make(template, "iprm", 0, 0.7),
        make(template, "iprm", 0, 0.6, fidelity="released"),
        make(template, "iprm", 0, 0.8, preset="authors", trainer=longer),
    ]
    (table,) = score_tables(Study(name="s", title="T", rows=rows, baselines=()), records)
    values = {name: entries[0].value for name, entries in table.rows}
    assert values == pytest.approx({"iprm": 0.7, "released": 0.6, "recipe": 0.8})


def test_baselines_stand_in_a_block_and_extensions_are_marked(template, make, score_tables):
    marked = make(template, "iprm", 0, 0.7).model_copy(update={"remark": "an extension"})
    study = Study(name="s", title="T", rows=("concat", "iprm"), baselines=("concat",))
    tables = score_tables(study, [make(template, "concat", 0, 0.5), marked])
    text = markdown(tables)
    assert tables[0].breaks == (1,)
    assert line(text, "iprm †")
    assert "† an extension." in text
    tex = FORMS["tex"].text(tables)
    assert tex.count(r"\midrule") == 2
    assert r"iprm $\dagger$" in tex


def options(**changed):
    given = dict.fromkeys(("methods", "datasets", "seeds", "protocol", "fidelity", "preset"), "")
    plain = {
        "study": "", "encoder": [], "set": [], "config": None, "device": "cpu", "jobs": 1,
        "per_gpu": "1",
        "gpus_per_cell": 1, "cluster": "", "profile": "", "resources": {},
        "threads": 1, "checkpoint_seconds": 60.0, "results": Path("results"),
        "cache": None, "plugins": [], "dry_run": True, "json": False,
    }  # fmt: skip
    return Options(**{**plain, **changed, "given": given | changed.get("given", {})})


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function that writes a study of the user's own and returns its path."""
    monkeypatch.setattr("mmbench.report.study.OWN", {})

    def written(text, name="mine.toml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


MINE = """
title = "Mine"
rows = ["concat", { method = "iprm", name = "none", set = { alpha = 1 } }, "iprm"]
baselines = ["concat"]
datasets = ["mfeat3"]
seeds = 1
"""


def test_a_study_of_ones_own_is_run_and_reported_by_the_path_of_its_file(
    own, template, make, tmp_path
):
    path = own(MINE)
    cells = make_cells(options(study=path))
    assert [(c.method, c.changed) for c in cells] == [
        ("concat", {}), ("iprm", {"method.alpha": 1.0}), ("iprm", {}),
    ]  # fmt: skip
    write(tmp_path, [
        make(template, c.method, 0, 0.5, changed=c.changed, method_config=c.method_config)
        for c in cells
    ])  # fmt: skip
    assert names(report(tmp_path, [path], "runs", figures=False)) == ["mine"]
    text = (tmp_path / "tables" / "mine.md").read_text()
    assert "50.00" in line(text, "none") and "missing" not in text


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (None, "gone.toml", r"cannot read the study .*gone.toml: No such file"),
        ("title = ", "mine.toml", r"cannot read the study .*mine.toml: Invalid value"),
        (MINE + 'rowz = ["sum"]', "mine.toml", r"mine.toml is no study: .* 'rowz'.*'rows'"),
        (MINE + 'order = "first"', "mine.toml", "'order' cannot be 'first'; allowed: integer"),
        ('title = "T"\nbaselines = []', "mine.toml", "'rows' is missing"),
        (MINE.replace("name =", "nmae ="), "mine.toml",
         r"^.*mine.toml is no study: row 2 \(iprm\): unknown setting 'nmae'; did you mean 'name'"),
        (MINE.replace('["concat", ', "[3, "), "mine.toml", "row 1 is 3; write a method's"),
        (MINE.replace('method = "iprm", ', ""), "mine.toml",
         r"row 2 \(none\): 'method' is missing"),
        (MINE.replace('"iprm"]', '"iprm", { method = "iprm", name = "again" }]'), "mine.toml",
         "mine.toml: rows 3 and 4 are both iprm with the same options; take one out"),
        (MINE.replace('name = "none", ', ""), "mine.toml",
         "mine.toml: rows 2 and 3 are both called 'iprm'; give one of them another name"),
        (MINE + 'name = "naive"', "mine.toml", "sets 'name'; a study is called as its file"),
        (MINE.replace('["concat"]', '["conact"]'), "mine.toml",
         "has the baseline 'conact', and no row of that method; did you mean 'concat'"),
        (MINE.replace('rows = ["concat"', 'rows = ["concatt"'), "mine.toml",
         r"the baseline 'concat', and no row of that method \(there are concatt, iprm\)"),
        (MINE + 'cost = "no"', "mine.toml", "'cost' cannot be 'no'"),
        (MINE, "naive.toml", "'naive' is a study of mmbench; give .*naive.toml another name"),
        (MINE, "my-wins.toml", "tables and figures are called STUDY-wins"),
        (MINE, "naive-strength-x.toml", "would be taken for figures of naive"),
        (MINE, "my study.toml", "cannot use the name 'my study'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_study_is_refused_with_what_to_mend(text, name, said, own, tmp_path):
    path = own(text, name) if text is not None else str(tmp_path / name)
    with pytest.raises(UserError, match=said):
        load_study(path)


def test_two_files_cannot_be_one_study(own, tmp_path):
    load_study(own(MINE))
    (tmp_path / "other").mkdir()
    load_study(own(MINE))  # the same file again
    with pytest.raises(UserError, match="two studies are called 'mine'"):
        load_study(own(MINE, "other/mine.toml"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("alpha = 1", "alpha = 0.8"), "sets 'method.alpha', which changes nothing of iprm on mf"),
        (("seeds = 1", 'settings = { "mfeat3.preset" = "hard" }'), "records call 'dataset.preset'"),
        (("alpha = 1", "alhpa = 1"), r"mine.toml, row 2 \(none\): unknown setting 'alhpa'"),
        (('"iprm"]', '"iprmm"]'), "unknown method 'iprmm'; did you mean 'iprm'"),
    ],
)
def test_a_study_whose_rows_no_record_could_fill_is_not_run(change, said, own):
    with pytest.raises(UserError, match=said):
        make_cells(options(study=own(MINE.replace(*change))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"iprm"]', '"iprmm"]'), r"row 3 \(iprmm\): unknown method 'iprmm'; did you mean 'iprm'"),
        (
            ("alpha = 1", "alhpa = 1"),
            r"row 2 \(none\): unknown setting 'alhpa'; did you mean 'alpha'",
        ),
        (("alpha = 1", "alpha = 7"), r"row 2 \(none\): 'alpha' cannot be 7; allowed: "),
    ],
)
def test_a_row_that_no_record_could_fill_is_refused_by_a_report(
    change, said, own, template, make, tmp_path
):
    write(tmp_path, [make(template, "concat", 0, 0.5)])
    with pytest.raises(UserError, match=rf"^{tmp_path}/mine.toml, {said}"):
        report(tmp_path, [own(MINE.replace(*change))], "runs")
    assert not (tmp_path / "tables").exists()


def test_a_method_of_ones_own_is_known_to_a_report_by_its_records(own, template, make, tmp_path):
    deeper = make(template, "my-own", 0, 0.8, changed={"method.depth": 3})
    write(tmp_path, [make(template, "concat", 0, 0.5), deeper])
    path = own(MINE.replace('"iprm"]', '{ method = "my-own", set = { depth = 3 } }]'))
    assert names(report(tmp_path, [path], "runs", figures=False)) == ["mine"]


def test_the_tables_of_another_study_of_the_same_name_are_not_replaced(
    own, template, make, tmp_path, monkeypatch
):
    write(tmp_path, [make(template, "iprm", 0, 0.7, changed={"method.alpha": 1.0})])
    (tmp_path / "other").mkdir()
    first, second = own(MINE), own(MINE, "other/mine.toml")
    report(tmp_path, [first], "runs", figures=False)
    report(tmp_path, [first], "runs", figures=False)  # its own
    before = (tmp_path / "tables" / "mine.md").read_bytes()
    monkeypatch.setattr("mmbench.report.study.OWN", {})
    with pytest.raises(UserError, match=rf"another study of that name, {first}, and {second} w"):
        report(tmp_path, [second], "runs", figures=False)
    assert (tmp_path / "tables" / "mine.md").read_bytes() == before
    Path(first).rename(tmp_path / "old.toml")  # as one moves a file
    report(tmp_path, [second], "runs", figures=False)


def test_every_study_expands_to_cells_and_finds_its_own_rows():
    for name in study_names():
        study = load_study(name)
        if study.rows == "found" or study.settings:
            continue
        asked = {"datasets": "synthetic" if study.vary else "mfeat3", "seeds": "1"}
        cells = make_cells(options(study=name, given=asked))
        shown = {(c.method, json.dumps({k[7:]: v for k, v in c.changed.items()
                                        if k.startswith("method.")})) for c in cells}  # fmt: skip
        assert {(row.method, json.dumps(row.set)) for row in study.listed} == shown, name


def test_a_study_can_be_narrowed_and_changed():
    cells = make_cells(options(
        study="ablation", given={"methods": "iprm", "datasets": "mfeat3", "seeds": "2"},
        set=["trainer.epochs=2"],
    ))  # fmt: skip
    assert len(cells) == 8
    assert {c.method for c in cells} == {"iprm"}
    assert all(c.changed["trainer.epochs"] == 2 for c in cells)
    assert {c.changed.get("method.ema") for c in cells} == {None, "off"}


def test_a_study_refuses_methods_that_it_has_no_row_of_and_takes_all():
    for wrong in ("iprmm", "iprm,sum"):
        with pytest.raises(UserError, match=r"the study ablation has rows of .*, but not of"):
            make_cells(options(study="ablation", given={"methods": wrong, "datasets": "mfeat3"}))
    every, plain = (
        make_cells(options(study="ablation", given={"methods": given, "datasets": "mfeat3"}))
        for given in ("all", "")
    )
    assert [c.id for c in every] == [c.id for c in plain]


def test_what_differs_from_the_bundle_is_named_and_changes_no_id():
    plain, changed = (
        make_cells(options(given={"methods": "iprm", "datasets": "mfeat3"}, set=given))[0]
        for given in ([], ["iprm.alpha=0.8", "dataset.preset=hard", "trainer.lr=0.02"])
    )
    assert plain.changed == {}
    assert changed.changed == {"dataset.preset": "hard", "trainer.lr": 0.02}
    assert plain.model_copy(update={"changed": {"method.x": 1}}).id == plain.id
    assert changed.id != plain.id


def test_a_study_of_what_was_found_cannot_be_run():
    with pytest.raises(UserError, match="names nothing to run"):
        make_cells(options(study="everything"))


def test_a_knob_gives_one_table_for_each_of_its_values(template, make, score_tables):
    study = load_study("imbalance")
    ((key, values),) = study.vary.items()
    records = [
        make(template, "concat", 0, 0.5, dataset="synthetic", changed={key: value} if value else {})
        for value in values[:3]
    ]
    tables = score_tables(study, [*records, make(template, "concat", 0, 0.5)])
    assert len(tables) == 3
    assert any(f"synthetic (imbalance={values[1]})" in table.heading for table in tables)


def test_study_of_a_knob_is_run_once_for_each_value():
    study = load_study("imbalance")
    cells = make_cells(options(study="imbalance", given={"methods": "concat", "seeds": "1"}))
    values = sorted(cell.dataset_config["imbalance"] for cell in cells)
    assert values == sorted(study.vary["dataset.imbalance"])


CLIP = {"encoder.image": "clip", "encoder.text": "clip",
        "dataset.tokenizer": "openai/clip-vit-base-patch32"}  # fmt: skip


def test_the_settings_of_a_study_are_those_of_its_cells(monkeypatch):
    settings = {"encoder.fou": "conv", "trainer.epochs": 2}
    toy = Study(name="toy", title="T", rows=("concat", "mla"), baselines=("concat",),
                settings=settings, datasets=("mfeat3",))  # fmt: skip
    monkeypatch.setattr("mmbench.cli.asking.load_study", lambda name: toy)
    cells = make_cells(options(study="toy", given={"seeds": "1"}, set=["encoder.fou=mlp"]))
    assert {c.method for c in cells} == {"concat", "mla"}
    assert {c.trainer.epochs for c in cells} == {2}
    assert {c.encoders["fou"] for c in cells} == {"mlp"}  # what is typed wins


def test_records_with_the_settings_of_a_study_are_its_own(template, make, score_tables):
    longer = CLIP | {"dataset.length": 77}
    records = [
        make(template, "concat", 0, 0.5, dataset="sarcasm"),
        make(template, "mla", 0, 0.6, dataset="sarcasm", changed=longer),
        make(template, "mla", 0, 0.7, dataset="sarcasm", changed={"encoder.image": "clip"}),
    ]
    (own,) = score_tables(load_study("pretrained"), records)
    assert [name for name, _ in own.rows] == ["CLIP+MLA"]
    assert dict(own.rows)["CLIP+MLA"][0].value == pytest.approx(0.6)
    others = score_tables(load_study("rebalanced"), records)
    values = [e[0].value for t in others for _, e in t.rows if e[0].value is not None]
    assert sorted(values) == pytest.approx([0.5, 0.7])


def test_a_study_that_was_published_and_not_run_shows_ours_missing(template, make, tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "a-paper.csv").write_text(
        "table,dataset,method,metric,value,std,note\npretrained,sarcasm,clip,accuracy,83.11,,\n"
    )
    (tmp_path / "records").mkdir()
    record = make(template, "concat", 0, 0.5)
    (tmp_path / "records" / "a.json").write_text(record.model_dump_json(exclude_none=True))
    built = report(tmp_path, [], "records", figures=False)
    assert built.tables["pretrained"] == 1
    assert "| CLIP | *83.11* | *missing* |" in (tmp_path / "tables" / "pretrained.md").read_text()


def test_a_study_of_options_has_no_table_where_none_was_run(template, make, score_tables):
    records = [
        make(template, "concat", 0, 0.5), make(template, "iprm", 0, 0.7),
        make(template, "iprm", 0, 0.6, changed={"method.ema": "off"}),
        make(template, "concat", 0, 0.5, fidelity="released"),
        make(template, "iprm", 0, 0.8, fidelity="released"),
    ]  # fmt: skip
    (table,) = score_tables(STUDY, records)
    assert table.bundle == ""


def test_the_usual_tables_come_before_those_of_other_protocols_and_bundles(
    template, make, score_tables
):
    records = [
        make(template, "iprm", 0, 0.5, dataset=dataset, protocol=protocol, fidelity=fidelity)
        for dataset in ("b", "a")
        for protocol in ("published", "validated")
        for fidelity in ("released", "corrected")
    ]
    study = Study(name="s", title="T", rows=("iprm",), baselines=())
    found = [(t.dataset, t.protocol, t.bundle) for t in score_tables(study, records)]
    one = [("validated", ""), ("validated", "released fidelity"), ("published", ""),
           ("published", "released fidelity")]  # fmt: skip
    assert found == [(dataset, *rest) for dataset in "ab" for rest in one]
