"""``mmbench new-method`` and ``mmbench test``, as someone who adds a method types them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


def mmbench(*args, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mmbench", *map(str, args)], cwd=cwd, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    assert mmbench("new-method", "my-method", cwd=folder).returncode == 0
    return folder / "my_method.py"


def test_new_method_is_short_and_keeps_the_contract(written):
    assert len(written.read_text().splitlines()) < 40
    done = mmbench("test", written.name, "--json", cwd=written.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert {row["outcome"] for row in rows} == {"pass"}
    assert {row["method"] for row in rows} == {"my-method"}


@pytest.mark.parametrize("page", ["add-a-method.md", "start.md"])
def test_new_method_prints_the_commands_of_the_pages(page, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    shown = re.findall("^    (mmbench .*)$", text, flags=re.MULTILINE)
    first = shown.index("mmbench new-method my-method")
    printed = mmbench("new-method", "my-method", cwd=tmp_path).stdout.splitlines()
    assert [line.strip() for line in printed[1:]] == shown[first + 1 : first + 4]


def test_new_method_runs_as_printed(written, tmp_path):
    done = mmbench(
        "run", "--plugin", written.name, "--methods", "my-method", "--datasets", "mfeat3",
        "--set", "trainer.epochs=1", "--results", tmp_path, cwd=written.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 done of 1 cell" in done.stdout


def test_broken_method_fails_with_what_to_mend(written, tmp_path):
    file = tmp_path / "broken.py"
    text = written.read_text().replace("my-method", "broken")
    file.write_text(text.replace("self.fit.backward(total)", "self.fit.backward(-total)"))
    done = mmbench("test", file, cwd=tmp_path)
    assert done.returncode == 1
    assert "did not fall" in done.stdout
    assert "failed" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("new-method", "my-method"), "is there already"),
        (("new-method", "concat"), "there is a method 'concat'"),
        (("new-method", "My Method"), "use letters, digits, hyphens and underscores"),
        (("new-method", "9lives"), "begin with a letter"),
        (("new-method", "class"), "no word of Python's own"),
        (("new-method", "none"), "no word of Python's own"),
        (("new-method", "json"), "would stand before the Python module 'json'"),
        (("new-method", "other", "--folder", "my_method.py/x"), "cannot write"),
        (("test", "nowhere.py"), "no plug-in file"),
        (("test", "concta"), "did you mean 'concat'"),
        (("test", "my_method"), "for the file type mmbench test my_method.py"),
        (("test", "my-method"), "for the file type mmbench test my_method.py"),
    ],
)
def test_mistakes_are_explained(args, message, written):
    done = mmbench(*args, cwd=written.parent)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("name", ["CLASS", "concat-head", "My_Thing"])
def test_a_name_like_a_word_of_the_template_gives_a_method_that_works(name, tmp_path):
    assert mmbench("new-method", name, cwd=tmp_path).returncode == 0
    (file,) = tmp_path.glob("*.py")
    done = mmbench("test", file.name, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["method"] for row in json.loads(done.stdout)} == {name}


def test_a_refused_name_leaves_no_file(tmp_path):
    for name in ("9lives", "class", "none"):
        assert mmbench("new-method", name, cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []
