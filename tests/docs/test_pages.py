"""The pages made from the source say what the source says; the example dataset runs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmbench.registry import DATASETS, METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("make_pages", ROOT / "tools" / "make_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("docs")
    module.main(["--folder", str(folder)])
    return folder


@pytest.mark.parametrize("kind", ["methods", "datasets"])
def test_the_pages_of_docs_are_those_the_source_gives(made, kind):
    here = {file.name: file.read_text("utf-8") for file in (made / kind).glob("*.md")}
    there = {file.name: file.read_text("utf-8") for file in (ROOT / "docs" / kind).glob("*.md")}
    assert here == there, "run: python tools/make_pages.py"


@pytest.mark.parametrize(("kind", "registry"), [("methods", METHODS), ("datasets", DATASETS)])
def test_every_built_in_has_a_page_and_a_line_in_the_index(made, kind, registry):
    names = [entry.name for entry in registry.entries() if entry.origin == "built-in"]
    index = (made / kind / "README.md").read_text("utf-8")
    for name in names:
        assert f"# {name}" in (made / kind / f"{name}.md").read_text("utf-8")
        assert f"[{name}]({name}.md)" in index
    assert len(list((made / kind).glob("*.md"))) == len(names) + 1


def test_the_dataset_of_the_page_runs(tmp_path):
    page = (ROOT / "docs" / "add-a-dataset.md").read_text("utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / "my_halves.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", "run", "--plugin", "my_halves.py", "--methods",
         "concat", "--datasets", "my-halves", "--cache", "cache"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 done of 1 cell" in done.stdout
    for word in re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \|", page, re.MULTILINE):
        assert all(not w or w in (ROOT / "mmbench/dataset.py").read_text("utf-8") for w in word)
