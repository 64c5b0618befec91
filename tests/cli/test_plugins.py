"""The user's own method from the command line: found in the working folder, rerun once edited."""

import json
import subprocess
import sys

import pytest

METHOD = """
from mmbench.methods.sum import Sum
from mmbench.registry import register_method


@register_method("my-sum")
class Mine(Sum):
    \"\"\"Sum, by me.\"\"\"
"""


@pytest.fixture
def workplace(tmp_path):
    (tmp_path / "mypack").mkdir()
    (tmp_path / "mypack" / "__init__.py").touch()
    (tmp_path / "mypack" / "mine.py").write_text(METHOD)
    return tmp_path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def mmbench(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def run(folder, cache, plugin):
    return mmbench(
        folder, "run", "--plugin", plugin, "--methods", "my-sum", "--datasets", "mfeat3",
        "--set", "trainer.epochs=1", "--jobs", "1", "--cache", cache,
    )  # fmt: skip


def test_a_package_in_the_working_folder_is_a_plugin_of_the_workers_too(workplace, cache):
    done = run(workplace, cache, "mypack.mine")
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = workplace.glob("results/runs/mfeat3.my-sum.s0.*/record.json")
    assert json.loads(file.read_text())["status"] == "done"


def test_hints_carry_the_folder_and_the_plugins_that_were_given(workplace, cache):
    given = ["--plugin", "mypack/mine.py", "--results", "mine"]
    asked = ["--set", "trainer.epochs=1", "--jobs", "1", "--cache", cache]
    done = mmbench(workplace, "run", "--methods", "my-sum", "--datasets", "mfeat3", *asked, *given)
    assert done.stdout.splitlines()[-1].endswith("tables: mmbench report --results mine")
    wrong = mmbench(workplace, "run", "--methods", "my-summ", "--datasets", "mfeat3", *given)
    assert "(mmbench list methods --plugin mypack/mine.py shows all" in wrong.stderr
    unknown = mmbench(workplace, "show", "nix", *given)
    assert "encoders|runs --results mine --plugin mypack/mine.py shows" in unknown.stderr
    again = mmbench(workplace, "reproduce", "my-sum.s0", "--dry-run", "--cache", cache, *given)
    assert "--set trainer.epochs=1 --plugin mypack/mine.py\n" in again.stdout


def test_an_edited_plugin_runs_again_and_the_table_shows_the_newest(workplace, cache):
    file = workplace / "mypack" / "mine.py"
    for _ in range(2):
        assert run(workplace, cache, file).returncode == 0
        assert "nothing to do" in run(workplace, cache, file).stdout
        file.write_text(METHOD + "# another rule\n")
    assert len(list(workplace.glob("results/runs/*/record.json"))) == 2
    shown = mmbench(workplace, "report")
    assert shown.returncode == 0, shown.stderr
    assert "my-sum: 1 record of earlier code left out" in shown.stdout


def test_a_plugin_that_raises_is_the_users_mistake(workplace, cache):
    file = workplace / "mypack" / "mine.py"
    file.write_text(METHOD + "raise RuntimeError('half-written')\n")
    done = run(workplace, cache, file)
    assert done.returncode == 2
    assert "half-written" in done.stderr and "Traceback" not in done.stderr
