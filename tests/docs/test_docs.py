"""What the pages tell a reader to type exists, and what they link to is there."""

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from mmbench.cli.app import app
from mmbench.cli.asking import read_config
from mmbench.contract.suite import run_one
from mmbench.launch.profile import read_profile
from mmbench.plugins import load_plugin
from mmbench.registry import DATASETS, METHODS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    (page.name, line.split("#")[0].strip())
    for page in PAGES
    for line in page.read_text(encoding="utf-8").splitlines()
    if line.startswith("    mmbench ")
]


def test_pages_show_commands():
    assert len(COMMANDS) > 20
    assert {page for page, _ in COMMANDS} >= {"README.md", "start.md", "add-a-method.md"}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_and_names_exist(page, line):
    group = typer.main.get_command(app)
    name, *words = shlex.split(line)[1:]
    assert name in group.commands, f"{page}: there is no command {name}"
    command = group.commands[name]
    options = {text: o for o in command.params for text in o.opts}
    for word, following in pairwise([*words, ""]):
        if word.startswith("--"):
            assert word in options, f"{page}: {name} has no option {word}"
        if word in ("--methods", "--datasets"):
            registry = METHODS if word == "--methods" else DATASETS
            known = {*registry.names(), "all", "embedded"}
            unknown = {n for n in following.split(",") if not n.startswith("my-")} - known
            assert not unknown, f"{page}: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    own = (ROOT / "results" / "runs").is_dir()  # a report of them replaces the committed figures
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\[[^\]]+\]\(([^)#]+)\)", prose):
        if "://" not in target and not (own and "results/figures/" in target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_config_files_shown_are_read(page, tmp_path):
    for number, text in enumerate(
        re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        if text.startswith("# profile\n"):
            assert read_profile(str(file), {}).resources("any").time
            continue
        if text.startswith("# my-study.toml\n"):
            continue  # it is run below
        keys, settings = read_config(file)
        assert len(keys) + len(settings) >= len(tomllib.loads(text))


def test_every_table_of_speed_has_a_script_and_every_script_its_place():
    pages = (ROOT / "docs" / name for name in ("performance.md", "scale.md"))
    page = "".join(file.read_text(encoding="utf-8") for file in pages)
    opened = re.findall(r"<!-- ([\w-]+) -->", page)
    assert opened == re.findall(r"<!-- /([\w-]+) -->", page)
    written = re.compile(r'Page\(options\.into, f?"([^"]+)"\)')
    for file in (ROOT / "benchmarks").glob("*.py"):
        for name in written.findall(file.read_text(encoding="utf-8")):
            places = [m for m in opened if re.fullmatch(re.sub(r"\{[^}]*\}", r"\\w+", name), m)]
            assert places, f"{file.name} writes {name}, for which no page has a place"
            opened = [m for m in opened if m not in places]
    assert not opened, f"no script writes {opened}"


def test_the_options_and_bundles_of_the_method_page_keep_the_contract(tmp_path, monkeypatch):
    METHODS.names()  # scanned; what is added from here on is forgotten
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS._classes))
    page = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    blocks = [c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "my-method" in c]
    assert len(blocks) == 2
    file = tmp_path / "paged.py"
    file.write_text("\n".join(blocks).replace('"my-method"', '"paged-method"'))
    load_plugin(str(file))
    cls = METHODS.load("paged-method")
    assert run_one(cls, "options", 2).outcome == "pass"
    assert cls.released() == {"mode": "mean"}
    assert cls.recipe({}) == {
        "trainer.lr": 0.001, "trainer.schedule": "constant", "weight": 0.5,
    }  # fmt: skip


def test_the_study_of_its_page_is_run_reported_and_explained(tmp_path):
    page = (ROOT / "docs" / "add-a-study.md").read_text(encoding="utf-8")
    (tmp_path / "my-study.toml").write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])
    lines = [shlex.split(line)[1:] for name, line in COMMANDS if name == "add-a-study.md"]
    assert [words[0] for words in lines] == ["run", "report", "explain"]
    lines[0] += ["--seeds", "1", "--set", "trainer.epochs=1", "--cache", str(tmp_path / "cache")]
    lines[1] += ["--no-figures"]
    for words in lines:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mmbench", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert "the file says the same" in done.stdout
    table = (tmp_path / "results" / "tables" / "my-study.md").read_text()
    assert "Does a smaller alpha help?" in table and "missing" not in table


@pytest.mark.parametrize(
    "place", ["mmbench.nets.heads", "mmbench.methods.gradients", "mmbench.methods.modulated"]
)
def test_what_the_method_page_imports_is_there(place):
    page = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    names = re.findall(rf"((?:`\w+` and )?`\w+`) from `{place}`", page)
    assert names
    for name in re.findall(r"`(\w+)`", names[0]):
        assert hasattr(importlib.import_module(place), name), name
