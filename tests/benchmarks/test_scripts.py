"""The scripts that measure run from the command line and print their tables; the sizes are tiny."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmbench.errors import MMBenchError
from mmbench.settings import TrainerSettings
from mmbench.testing.speed import audiovisual, make_trainer, random_loader
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
        "epoch-cpu", "method | s/epoch | range | samples/s | floor over time | ratio",
        ["--samples", "8", "--batch", "4", "--epochs", "1", *TINY],
    ),
    "options.py": (
        "options-cpu", "variant | relative time | range | parity",
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
        "study-hours", "dataset | encoders | train | Gflop/sample | Pflop/epoch | s/epoch | hours",
        ["--tflops", "800"],
    ),
}  # fmt: skip


def module(script):
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(script, BENCHMARKS / f"{script}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def run(script, *options):
    device = [] if script == "study_hours.py" else ["--device", "cpu"]
    command = [sys.executable, "-P", str(BENCHMARKS / script), *device, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_prints_its_table_and_puts_it_into_a_page(script, tmp_path):
    place, heading, options = SCRIPTS[script]
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
    ],
)
def test_a_mistake_ends_a_script_with_code_2_and_without_a_traceback(script, options, said):
    command = [sys.executable, "-P", str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


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
