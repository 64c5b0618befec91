"""A number leads to its records, and a cell to the command that makes it again."""

import json
import shlex
from pathlib import Path

import pytest

from mmbench.cli.asking import Options, make_cells
from mmbench.cli.provenance import explain as print_explained
from mmbench.cli.provenance import reproduce
from mmbench.errors import UserError
from mmbench.registry import METHODS
from mmbench.report.build import report
from mmbench.report.explain import explain
from mmbench.reproduce import command_line, compare
from mmbench.store import iter_records

RECORDS = Path(__file__).parents[2] / "results" / "records"


@pytest.fixture
def tables(template, make, tmp_path):
    values = {"concat": (0.5, 0.6), "sum": (0.4, 0.5), "iprm": (0.7, 0.9)}
    for method, each in values.items():
        for seed, value in enumerate(each):
            folder = tmp_path / "runs" / f"{method}-{seed}"
            folder.mkdir(parents=True)
            record = make(template, method, seed, value)
            (folder / "record.json").write_text(record.model_dump_json(exclude_none=True))
    report(tmp_path, ["naive"], "runs", figures=False)
    return tmp_path / "tables"


def test_a_number_is_computed_again_from_the_files_of_its_records(tables):
    (found,) = explain(f"{tables}/naive.md:iprm:toy:Accuracy", "runs")
    assert found.value == pytest.approx(0.8)
    assert [(s.seed, s.value) for s in found.own] == [(0, 0.7), (1, 0.9)]
    assert found.agrees
    assert all(found.files[s.record].exists() for s in found.own)


def test_a_person_reads_epochs_from_1_and_a_program_as_records_have_them(tables, template, capsys):
    target = f"{tables}/naive.md:iprm:toy:Accuracy"
    assert print_explained(target, "runs", True) == 0
    (number,) = json.loads(capsys.readouterr().out)
    assert {r["epoch"] for r in number["records"]} == {template.selection.epoch}
    assert print_explained(target, "runs", False) == 0
    assert f"  epoch {template.selection.epoch + 1}  " in capsys.readouterr().out


def test_the_printed_commands_have_the_results_folder(tables, capsys):
    print_explained(f"{tables}/naive.md:iprm:toy:Accuracy", "runs", False)
    assert f" --results {tables.parent}\n" in capsys.readouterr().out


def test_numbers_made_from_those_of_another_table_are_explained_there(tables):
    (tables / "naive-statistics.md").touch()
    target = f"{tables}/naive-statistics.md:iprm:naive-statistics"
    with pytest.raises(
        UserError, match=r"are made from those of naive\.md, which can be explained"
    ):
        explain(target, "runs")


def test_a_method_of_ones_own_needs_its_plug_in_to_be_made_again(template):
    cell = template.cell.model_copy(update={"method": "my-own"})
    assert command_line(cell).endswith(" --plugin FILE.py")
    assert "--plugin" not in command_line(template.cell)


def test_a_method_of_ones_own_is_not_reproduced_without_its_plug_in(template, make, tmp_path):
    record = make(template, "my-own", 0, 0.5)
    folder = tmp_path / "runs" / record.cell.folder
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(record.model_dump_json(exclude_none=True))
    with pytest.raises(UserError, match="'my-own' is no method of mmbench: add --plugin"):
        reproduce(record.cell.id, tmp_path, "runs", "cpu", None, [], True)


def test_a_table_is_found_in_the_results_folder_by_its_name(tables):
    (found,) = explain("naive.md:iprm:toy:Accuracy", "runs", tables.parent)
    assert found.agrees


@pytest.fixture
def collected(tables, template, make):
    """The tables of records that were collected; the runs beside them are others."""
    (tables.parent / "runs").rename(tables.parent / "records")
    folder = tables.parent / "runs" / "sum-0"
    folder.mkdir(parents=True)
    record = make(template, "sum", 0, 0.3)
    (folder / "record.json").write_text(record.model_dump_json(exclude_none=True))
    return tables


def test_a_number_that_the_runs_do_not_have_comes_with_the_source_that_has_it(collected):
    with pytest.raises(UserError, match="made of other records: name --source records"):
        print_explained(f"{collected}/naive.md:iprm:toy:Accuracy", "auto", False)


def test_a_number_that_the_runs_have_otherwise_comes_with_the_source_that_agrees(collected, capsys):
    assert print_explained(f"{collected}/naive.md:sum:toy:Accuracy", "auto", False) == 1
    assert "THE FILE SAYS 45.0000; name --source records, which" in capsys.readouterr().out


def test_a_difference_names_the_records_of_the_baseline(tables):
    (found,) = explain(f"{tables}/naive.md:iprm:toy:Δ Accuracy", "runs")
    assert found.value == pytest.approx((0.2 + 0.3) / 2)
    assert [s.value for s in found.against] == [0.5, 0.6]


def test_a_table_that_says_another_number_is_caught(tables):
    file = tables / "naive.csv"
    lines = file.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("naive-toy,iprm,Accuracy,"))
    words = lines[at].split(",")
    lines[at] = ",".join([*words[:3], "0.81", *words[4:]])
    file.write_text("\n".join(lines))
    (found,) = explain(f"{tables}/naive.md:iprm:toy:Accuracy", "runs")
    assert found.agrees is False


def test_an_edited_record_is_caught(tables):
    file = tables.parent / "runs" / "iprm-0" / "record.json"
    file.write_text(file.read_text().replace('"accuracy":0.7,', '"accuracy":0.6,'))
    (found,) = explain(f"{tables}/naive.md:iprm:toy:Accuracy", "runs")
    assert found.agrees is False


@pytest.fixture
def several(template, make, tmp_path):
    """Return the tables of one dataset: plain, released fidelity, and selected on test."""
    kinds = ({}, {"fidelity": "released"}, {"protocol": "published"})
    for number, kind in enumerate(kinds):
        for method, value in (("concat", 0.5), ("iprm", 0.6 + number / 10)):
            folder = tmp_path / "runs" / f"{method}-{number}"
            folder.mkdir(parents=True)
            record = make(template, method, 0, value, **kind)
            (folder / "record.json").write_text(record.model_dump_json(exclude_none=True))
    report(tmp_path, ["naive", "cost"], "runs", figures=False)
    return tmp_path / "tables"


def test_a_row_of_several_tables_is_explained_in_each(several):
    found = explain(f"{several}/naive.md:iprm:toy:Accuracy", "runs")
    assert {n.name: n.value for n in found} == pytest.approx({
        "naive-toy": 0.6, "naive-toy-released-fidelity": 0.7, "naive-toy-published": 0.8,
    })  # fmt: skip
    assert all(n.agrees for n in found)


@pytest.mark.parametrize("place", ["naive-toy-released-fidelity", "toy, released fidelity"])
def test_one_of_several_tables_is_asked_for_by_name_or_heading(several, place):
    (found,) = explain(f"{several}/naive.md:iprm:{place}:Accuracy", "runs")
    assert found.value == pytest.approx(0.7)


def test_a_wrong_number_is_caught_though_another_table_holds_the_right_one(several):
    file = several / "naive.csv"
    text = file.read_text()
    line = next(x for x in text.splitlines() if x.startswith("naive-toy,iprm,Accuracy,"))
    words = line.split(",")
    file.write_text(text.replace(line, ",".join([*words[:3], "0.7", *words[4:]])))
    found = explain(f"{several}/naive.md:iprm:toy:Accuracy", "runs")
    assert [n.name for n in found if n.agrees is False] == ["naive-toy"]


def test_a_ratio_is_computed_again_from_both_records(several):
    (found,) = explain(f"{several}/cost.md:iprm:cost-toy:Ratio", "runs")
    assert found.pairing == "ratio"
    assert found.value == pytest.approx(1.0)
    assert found.agrees
    assert len(found.against) == 1


@pytest.fixture
def prepared_twice(template, make, tmp_path):
    """Return the results of a table of one's own that had other contents the second time."""
    for number, content in enumerate(("1aa1", "2bb2")):
        for method, value in (("concat", 0.5), ("iprm", 0.6)):
            folder = tmp_path / "runs" / f"{method}-{number}"
            folder.mkdir(parents=True)
            config = {"content": content, "words": 64}
            record = make(template, method, 0, value + number / 10, dataset_config=config)
            (folder / "record.json").write_text(record.model_dump_json(exclude_none=True))
    return tmp_path


def test_tables_of_other_contents_are_told_apart_and_so_are_their_figures(prepared_twice):
    built = report(prepared_twice, ["naive"], "runs")
    text = (prepared_twice / "tables" / "naive.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert headings == [
        "### Naive fusion and IPRM: toy (content=1aa1)",
        "### Naive fusion and IPRM: toy (content=2bb2)",
    ]
    assert {file.stem for file in built.files if "strength" in file.stem} == {
        "naive-strength-toy-content=1aa1", "naive-strength-toy-content=2bb2",
    }  # fmt: skip


def test_the_command_of_a_record_says_which_contents_it_is_of(prepared_twice, capsys):
    report(prepared_twice, ["naive"], "runs", figures=False)
    target = f"{prepared_twice}/tables/naive.md:iprm:{{}}:Accuracy"
    assert print_explained(target.format("toy"), "runs", True) == 0
    both = json.loads(capsys.readouterr().out)
    told = [r["command"].rpartition(" --set ")[2] for n in both for r in n["records"]]
    ends = [each.partition(" --results ")[0] for each in told]
    assert ends == ["dataset.content=1aa1", "dataset.content=2bb2"]
    (one,) = explain(target.format("toy (content=2bb2)"), "runs")
    assert one.value == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("naive.md:iprm", "say FILE:ROW:DATASET"),
        ("naiv.md:iprm:toy", "did you mean 'naive'"),
        ("naive.md:iprm:toi", "did you mean 'toy'"),
        ("naive.md:ipr:toy", r"columns: .*\); did you mean 'iprm'\?$"),
        ("naive.md:iprm:toy:MAB", "columns: Accuracy, MAP"),
        ("naive.md:iprm:MAP", "'MAP' is a column: say FILE:ROW:DATASET:MAP"),
    ],
)
def test_a_target_that_is_not_there_is_told(tables, target, said):
    with pytest.raises(UserError, match=said):
        explain(f"{tables}/{target}", "runs")


def test_a_mistyped_source_is_refused_and_not_read_as_runs(tables):
    for asked in (
        lambda: explain(f"{tables}/naive.md:iprm:toy:Accuracy", "recrods"),
        lambda: report(tables.parent, ["naive"], "recrods", figures=False),
    ):
        with pytest.raises(UserError, match=r"--source is one of auto, runs, records.*'recrods'"):
            asked()


def typed(line):
    """Return the options of a ``mmbench run`` line."""
    words = shlex.split(line)[2:]
    pairs = list(zip(words[::2], words[1::2], strict=True))
    given = {k.removeprefix("--"): v for k, v in pairs if k not in ("--set", "--encoder")}
    return Options(
        given=given, study="", encoder=[v for k, v in pairs if k == "--encoder"],
        set=[v for k, v in pairs if k == "--set"], config=None, device="cpu", jobs=1, per_gpu="1",
        gpus_per_cell=1, cluster="", profile="", resources={},
        threads=1, checkpoint_seconds=60.0, results=Path("results"), cache=None, plugins=[],
        dry_run=True, json=False,
    )  # fmt: skip


def test_the_command_of_every_reference_record_makes_its_cell():
    # An earlier version of a method may have had other options; bundles get corrected.
    cells = {command_line(r.cell): r.cell for r in iter_records(RECORDS) if r.cell.seed == 0
             and (r.cell.fidelity, r.cell.preset) == ("corrected", "common")
             and r.cell.method_version == METHODS.load(r.cell.method).version}  # fmt: skip
    assert len(cells) > 40
    for line, cell in cells.items():
        made = {c.label: c for c in make_cells(typed(line))}
        beside = {"sources", "method_version", "dataset_version", "changed", "unaffected"}
        assert made[cell.label].model_dump(exclude=beside) == cell.model_dump(exclude=beside), line


def test_settings_are_typed_as_they_are_read(template):
    changed = {
        "method.note": "it's two words", "trainer.clip_norm": None, "dataset.noisy": True,
        "encoder.audio": "mlp", "trainer.lr": 0.5,
    }  # fmt: skip
    options = typed(command_line(template.cell.model_copy(update={"changed": changed})))
    assert options.encoder == ["audio=mlp"]
    assert options.set == [
        "dataset.noisy=true", "method.note=it's two words", "trainer.clip_norm=none",
        "trainer.lr=0.5",
    ]  # fmt: skip


def test_two_runs_are_compared_number_by_number(template):
    assert compare(template, template).same
    row = template.curve[0]
    other = row.model_copy(update={"train": {**row.train, "loss": row.train["loss"] + 0.25}})
    slower = [row.model_copy(update={"seconds": 9.0}), *template.curve[1:]]
    assert compare(template, template.model_copy(update={"curve": slower})).same
    machine = template.environment.model_copy(update={"device_name": "another"})
    changed = template.model_copy(
        update={"curve": [other, *template.curve[1:]], "environment": machine}
    )
    found = compare(template, changed)
    assert found.differing == ("epoch 1 loss",)
    assert found.largest == pytest.approx(0.25)
    assert "another now" in found.unlike[0]
    assert not compare(template, template.model_copy(update={"status": "failed"})).same
