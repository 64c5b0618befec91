"""The scripts that measure run from the command line and print their tables; the sizes are tiny."""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmbench.errors import MMBenchError, UserError
from mmbench.registry import DATASETS, METHODS
from mmbench.settings import TrainerSettings
from mmbench.testing.speed import audiovisual, make_trainer, random_loader, sample_flops
from mmbench.training.device import allow_tf32

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--audio", "1,33,33", "--visual", "3,1,33,33"]
# script -> its place in a page, the heading of its table, options
SCRIPTS = {
    "step_time.py": (
        "step-time-cpu-2", "method | relative time | quartiles | arithmetic | target",
        ["--methods", "concat,iprm", "--rounds", "2", "--batch", "2", *TINY],
    ),
    "epoch_time.py": (
        "epoch-cpu", "method | s/epoch | range | samples/s | own floor over time | ratio",
        ["--samples", "8", "--batch", "4", "--epochs", "1", *TINY],
    ),
    "options.py": (
        "options-cpu", "variant | relative time | range | parity of loss | parity of step",
        ["--rounds", "1", "--batch", "2", "--no-compile", *TINY],
    ),
    "step_profile.py": (
        "profile-cpu", "kind | eager (ms) | eager kernels",
        ["--batch", "2", "--steps", "1", "--no-compile", *TINY],
    ),
    "memory.py": (
        "memory-cpu", "method | batch 2 (MiB)",
        ["--methods", "concat,agm", "--batch", "2", *TINY],
    ),
    "side_by_side.py": (
        "side-by-side-cpu", "workers | cells/min | against one | range",
        ["--workers", "1,2", "--dataset", "mfeat3", "--cells", "2", "--epochs", "1",
         "--rounds", "1"],
    ),
    "study_hours.py": (
        "study-hours", "dataset | encoders | train | Gflop/sample | Pflop/epoch "
        "| s/epoch | methods | hours",
        ["--tflops", "800"],
    ),
    "cell_overhead.py": (
        "cell-overhead", "part | mfeat3 (s) | range of mfeat3",
        ["--datasets", "mfeat3", "--rounds", "1"],
    ),
    "grid_busy.py": (
        "grid-busy", "cells | wall (s) | processor (s) | cores | busy",
        ["--methods", "concat", "--datasets", "mfeat3", "--seeds", "1"],
    ),
}  # fmt: skip
WITHOUT_A_DEVICE = {"study_hours.py", "cell_overhead.py", "grid_busy.py"}
ALL = sorted(file.stem for file in BENCHMARKS.glob("*.py"))


def module(script):
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(script, BENCHMARKS / f"{script}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def run(script, *options):
    device = [] if script in WITHOUT_A_DEVICE else ["--device", "cpu"]
    command = [sys.executable, "-P", str(BENCHMARKS / script), *device, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_prints_its_table_and_puts_it_into_a_page(script, tmp_path):
    place, heading, options = SCRIPTS[script]
    if script == "study_hours.py":  # to count the ratios takes minutes
        ratios = tmp_path / "ratios.json"
        ratios.write_text(json.dumps(dict.fromkeys(METHODS.names(), 1.0)))
        options = [*options, "--ratios", str(ratios)]
    page = tmp_path / "page.md"
    page.write_text(f"before\n<!-- {place} -->\n<!-- /{place} -->\nafter\n")
    printed = run(script, *options, "--into", str(page))
    table = printed[printed.index("|") :].splitlines()
    assert table[0] == f"| {heading} |"
    assert len(table) > 2
    assert len({line.count("|") for line in table}) == 1
    assert printed in page.read_text()


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("step_time.py", ["--methods", "iprmm"], "did you mean 'iprm'?"),
        ("epoch_time.py", ["--methods", "iprmm"], "did you mean 'iprm'?"),
        ("study_hours.py", ["--tflops", "1", "--set", "cremadd.audio=x"], "did you mean 'cremad'?"),
        ("study_hours.py", ["--tflops", "1", "--set", "cremad.audio=stft2s"], "stft20s"),
        ("step_time.py", ["--added", "--batch", "1"], "--added wants a --batch of 2 or more"),
        ("step_time.py", ["--added", "--json"], "leave out --added"),
    ],
)
def test_a_mistake_ends_a_script_with_code_2_and_without_a_traceback(script, options, said):
    command = [sys.executable, "-P", str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("script", "option", "value"),
    [
        ("cell_overhead", "--rounds", "0"),
        ("epoch_time", "--samples", "0"),
        ("epoch_time", "--batch", "0"),
        ("epoch_time", "--epochs", "0"),
        ("epoch_time", "--audio", "1,33"),
        ("epoch_time", "--visual", "3,1,0,33"),
        ("grid_busy", "--seeds", "-1"),
        ("memory", "--batch", "2,0"),
        ("memory", "--threads", "0"),
        ("options", "--rounds", "0"),
        ("options", "--batch", "-2"),
        ("prepare_speed", "--rounds", "0"),
        ("prepare_speed", "--actors", "1"),
        ("prepare_speed", "--markdown", "/nowhere/page.md"),
        ("report_speed", "--records", "0"),
        ("report_speed", "--rounds", "0"),
        ("report_speed", "--markdown", "/nowhere/page.md"),
        ("scale", "--cells", "10"),
        ("side_by_side", "--workers", "0"),
        ("side_by_side", "--cells", "0"),
        ("side_by_side", "--epochs", "0"),
        ("side_by_side", "--rounds", "0"),
        ("step_profile", "--steps", "0"),
        ("step_profile", "--batch", "many"),
        ("step_time", "--rounds", "0"),
        ("step_time", "--warmup", "-1"),
        ("step_time", "--steps", "0"),
        ("step_time", "--threads", "0"),
        ("step_time", "--batch", "0"),
        ("study_hours", "--seeds", "0"),
        ("study_hours", "--epochs", "0"),
        ("study_hours", "--tflops", "-3"),
        ("study_hours", "--tflops", "nan"),
        ("study_hours", "--share", "0"),
        ("study_hours", "--share", "1.5"),
    ],
)
def test_a_number_out_of_range_is_refused_by_the_name_of_its_option(
    script, option, value, capsys, monkeypatch
):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # prepare_speed sets it
    with pytest.raises(SystemExit) as ended:
        module(script).main([f"{option}={value}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"error: argument {option}: wants " in said


@pytest.mark.parametrize("script", ALL)
def test_help_tells_the_default_of_every_option(script, monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    seen = []

    def stop(parser, argv):
        seen.append(parser)
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    made = module(script)
    with pytest.raises(KeyboardInterrupt):
        made.main([])
    (parser,) = seen
    assert parser.format_help().count(made.__doc__.strip()) == 1
    told = {
        action.option_strings[-1]: action.help or ""
        for action in parser._actions
        if action.help != argparse.SUPPRESS and not action.required and action.nargs != 0
    }
    assert told
    assert not [option for option, text in told.items() if "(default: " not in text]


@pytest.mark.parametrize("script", [script.removesuffix(".py") for script in SCRIPTS])
@pytest.mark.parametrize(
    ("page", "said"),
    [(None, "No such file or directory; name a file with"), ("# Speed\n", "has no place for the")],
)
def test_a_page_without_a_place_for_the_table_is_refused_before_measuring(
    script, page, said, tmp_path, monkeypatch
):
    def measured(*_, **__):
        raise AssertionError("measured")

    made, file = module(script), tmp_path / "page.md"
    if page is not None:
        file.write_text(page)
    monkeypatch.setattr("time.perf_counter", measured)
    monkeypatch.setattr("subprocess.run", measured)
    device = [] if f"{script}.py" in WITHOUT_A_DEVICE else ["--device", "cpu"]
    options = [*device, *SCRIPTS[f"{script}.py"][2], "--into", str(file)]
    with pytest.raises(UserError, match=said) as refused:
        made.main(options)
    assert f"<!-- {SCRIPTS[f'{script}.py'][0]} -->" in str(refused.value)


def without(*names):
    return {name: 1.0 for name in METHODS.names() if name not in ("unimodal", *names)}


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ("{", "it is not JSON"),
        ([1.0], "it holds no names"),
        ({"iprmm": 1.0}, "unknown method 'iprmm' in .*; did you mean 'iprm'?"),
        (without("iprm", "mla"), "it has no ratio of iprm, mla"),
        (without() | {"iprm": 0}, "the ratio of 'iprm' is 0, not a number above 0"),
        (without() | {"iprm": "1"}, "the ratio of 'iprm' is '1', not a number above 0"),
        (None, "cannot read .*: No such file"),
    ],
)
def test_ratios_that_are_not_those_of_all_methods_are_refused(ratios, said, tmp_path):
    file = tmp_path / "ratios.json"
    if ratios is not None:
        file.write_text(ratios if isinstance(ratios, str) else json.dumps(ratios))
    with pytest.raises(UserError, match=said):
        module("study_hours").main(["--tflops", "1", "--ratios", str(file)])


@pytest.mark.slow
def test_what_a_method_does_beside_its_steps_counts_in_the_whole_study(monkeypatch):
    script = module("study_hours")
    monkeypatch.setattr(script, "SHORT", 2)
    methods = ["concat", "joint", "ogr-gb", "reconboost"]
    two, three = (script.counted(methods, modalities, epochs=100) for modalities in (2, 3))
    for found in (two, three):
        assert found["concat"] == 1.0
        assert found["joint"] == pytest.approx(1.0, rel=0.01)
        assert found["ogr-gb"] > 2  # a model of each modality and one of all, then the run
    assert 0.5 < two["reconboost"] < three["reconboost"] < 2


@pytest.mark.slow
def test_what_methods_add_to_a_step_is_told_of_those_with_its_arithmetic():
    printed = run(
        "step_time.py", "--methods", "agm,iprm", "--rounds", "2", "--batch", "2", "--added", *TINY
    )
    head, _, *rows = (line.split("|")[1:-1] for line in printed.splitlines() if line[:1] == "|")
    cells = {row[0].strip(): dict(zip(head, row, strict=True)) for row in rows}
    told = {m: (c[" added (ms) "].strip(), c[" with it "].strip()) for m, c in cells.items()}
    step = float(printed.split("1 + added / ")[1].split(" ms")[0])
    assert told["concat"] == told["agm"] == ("", "")
    added, ratio = map(float, told["iprm"])
    rounding = 0.05 / step + 0.5 * abs(added) / step**2 + 1e-4
    assert ratio == pytest.approx(1 + added / step, abs=rounding)


@pytest.mark.slow
def test_the_ratios_of_steps_are_printed_as_json():
    printed = run(
        "step_time.py", "--methods", "concat,iprm", "--rounds", "2", "--batch", "2", "--json", *TINY
    )
    ratios = json.loads(printed)
    assert list(ratios) == ["concat", "iprm"]
    assert ratios["concat"] == 1.0
    assert ratios["iprm"] > 0


def test_each_variant_of_the_options_has_its_own_precision_in_its_turns(tmp_path):
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)
    loader = random_loader(task, 2, 2, torch.device("cpu"))
    seen = []
    trainers = [
        make_trainer("concat", task, loader, TrainerSettings(precision=precision), tmp_path)
        for precision in ("fp32", "tf32", "fp32")
    ]
    try:
        for trainer in trainers:
            trainer.method.fusion_head.register_forward_pre_hook(
                lambda *_: seen.append(torch.backends.cuda.matmul.allow_tf32)
            )
            module("options").turn(trainer, list(loader.everything()))
    finally:
        allow_tf32("fp32")
    assert seen == [False, True, False]


def test_cells_side_by_side_begin_when_every_worker_is_ready(tmp_path):
    cells = [SimpleNamespace(id=str(number)) for number in range(3)]
    source = module("side_by_side").Together(cells, tmp_path, 2)
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    assert source.take(first) is source.take(first) is None
    assert source.again() > 0
    before = time.perf_counter()
    given = [source.take(log).cell for log in (second, first, second)]
    assert given == cells
    assert before < source.begun
    assert source.take(first) is source.again() is None


def test_a_method_that_fails_is_told_and_the_epochs_of_the_others_are_shown(monkeypatch, capsys):
    epoch_time = module("epoch_time")

    def make(name, *given):
        if name == "concat":
            raise RuntimeError("out of memory")
        return make_trainer(name, *given)

    monkeypatch.setattr(epoch_time, "make_trainer", make)
    options = ["--device", "cpu", *SCRIPTS["epoch_time.py"][2]]
    assert epoch_time.main([*options, "--methods", "concat,sum"]) == 1
    said = capsys.readouterr()
    assert said.err == "left out: concat: RuntimeError: out of memory\n"
    assert "| sum |" in said.out
    assert "| concat |" not in said.out


def test_a_process_that_ends_without_a_word_is_told(monkeypatch):
    memory = module("memory")
    ended = subprocess.CompletedProcess([], -9, stdout="", stderr="")
    monkeypatch.setattr("subprocess.run", lambda *given, **more: ended)
    with pytest.raises(MMBenchError, match="concat: ended with code -9"):
        memory.main(["--device", "cpu", "--methods", "concat"])


@pytest.fixture
def epochs_of_a_second(monkeypatch):
    """Return ``epoch_time`` without measuring: its epochs take a second, its loaders are kept."""
    made = module("epoch_time")
    loaders = []

    def make(name, task, loader, *given):
        loaders.append(loader)
        return make_trainer(name, task, loader, *given)

    monkeypatch.setattr(made, "make_trainer", make)
    monkeypatch.setattr(made, "steps_seconds", lambda *given, **more: 1.0)
    monkeypatch.setattr(made, "_evaluation_seconds", lambda trainer: 1.0)
    made.loaders = loaders
    return made


def test_the_floor_of_an_epoch_is_that_of_its_own_method(epochs_of_a_second, monkeypatch, capsys):
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 6)
    each = sample_flops("concat", task, dict.fromkeys(task.names, "resnet18"))
    monkeypatch.setattr(epochs_of_a_second, "peak_flops", lambda *given: 8 * each / 0.2)
    options = ["--device", "cpu", *SCRIPTS["epoch_time.py"][2], "--methods", "concat,agm"]
    assert epochs_of_a_second.main(options) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    shown = {row[0]: row[4] for row in rows if row[0] in ("| concat", "| agm")}
    assert shown == {"| concat": "20 %", "| agm": "45 %"}  # 2 + 1 / 4 times as much


def test_epochs_are_augmented_as_cremad_is_by_default(epochs_of_a_second, capsys):
    cls = DATASETS.load("cremad")
    name = cls(cls.Config()).augmentations()["video"]
    options = ["--device", "cpu", *SCRIPTS["epoch_time.py"][2], "--methods", "concat"]
    assert epochs_of_a_second.main(options) == 0
    assert f"augmented as by a run of `cremad` (visual: {name})" in capsys.readouterr().out
    assert [loader.augmentations for loader in epochs_of_a_second.loaders] == [{"visual": name}]


def test_parity_compares_one_step_from_the_same_weights(tmp_path):
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)
    loader = random_loader(task, 2, 2, torch.device("cpu"))
    trainers = {
        f"rate {lr}, number {number}": make_trainer(
            "concat", task, loader, TrainerSettings(lr=lr), tmp_path
        )
        for number, lr in enumerate((0.01, 0.01, 0.02))
    }
    same, again, twice = module("options").parity(trainers, next(loader.everything())).values()
    assert same == again == (0.0, 0.0)
    assert twice == (0.0, pytest.approx(1.0, abs=1e-3))
