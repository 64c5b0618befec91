"""The copy holds everything that a job runs, and is what a job runs."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mmbench.launch import snapshot

ROOT = Path(__file__).parents[2]
PLUGIN = '''"""Mine."""
from mmbench import register_method
from mmbench.methods.concat import Concat
import {helper}


@register_method("{name}")
class Mine(Concat):
    """Mine."""
    word = {helper}.WORD
'''


def python(code: Path, cwd: Path, text: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", text], env=environment, cwd=cwd, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """A folder with a package of plug-ins and a module beside it that one of them imports."""
    folder = tmp_path / "work"
    (folder / "minepack").mkdir(parents=True)
    (folder / "minepack" / "__init__.py").write_text("")
    (folder / "minebeside.py").write_text("WORD = 'as submitted'\n")
    (folder / "minepack" / "mine.py").write_text(PLUGIN.format(helper="minebeside", name="mine"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("mine")]:
        del sys.modules[name]


def test_what_lies_beside_the_package_is_what_pyproject_says():
    homes = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    beside = [name.removeprefix("mmbench.") for name in homes["package-dir"] if "." in name]
    assert sorted(beside) == sorted(snapshot.BESIDE)


def test_every_module_of_the_copy_is_imported_from_the_copy(tmp_path):
    snapshot.take(tmp_path / "code", [])
    text = (
        "import mmbench.methods, mmbench.datasets, mmbench.studies, mmbench.launch.worker as w\n"
        "print(mmbench.__file__, mmbench.methods.__file__, mmbench.datasets.__file__, "
        "mmbench.studies.__file__, w.__file__)"
    )
    files = python(tmp_path / "code", ROOT, text).split()
    assert len(files) == 5
    assert all(Path(file).is_relative_to(tmp_path / "code") for file in files)


def test_the_copy_holds_the_data_files_too(tmp_path):
    snapshot.take(tmp_path / "code", [])
    for home, name in (("mmbench", ""), *((part, part) for part in snapshot.BESIDE)):
        wanted = {
            file.relative_to(ROOT / home)
            for file in (ROOT / home).rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }
        copied = tmp_path / "code" / "mmbench" / name
        assert all((copied / file).is_file() for file in wanted)


def test_the_copy_knows_the_commit_it_was_made_from(tmp_path):
    from mmbench.training.environment import commit

    snapshot.take(tmp_path / "code", [])
    text = (
        "from mmbench.training.environment import commit; import json; print(json.dumps(commit()))"
    )
    assert json.loads(python(tmp_path / "code", tmp_path, text)) == list(commit())


def test_a_copy_of_an_installed_package_is_whole_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    installed, code = tmp_path / "installed", tmp_path / "code"
    snapshot.take(installed, [])  # laid out as a wheel is
    text = (
        "from pathlib import Path; from mmbench.launch import snapshot; import mmbench.methods\n"
        f"snapshot.take(Path({str(code)!r}), []); print(mmbench.methods.__file__)"
    )
    assert Path(python(installed, tmp_path, text)).is_relative_to(installed)
    files = [{file.relative_to(top) for file in top.rglob("*.*") if file.suffix != ".pyc"}
             for top in (installed, code)]  # fmt: skip
    assert files[0] == files[1]


def test_a_plug_in_file_is_copied_and_named_anew(tmp_path):
    (tmp_path / "mine.py").write_text("before\n")
    (spec,) = snapshot.take(tmp_path / "code", [str(tmp_path / "mine.py")])
    (tmp_path / "mine.py").write_text("after\n")
    assert Path(spec).is_relative_to(tmp_path / "code")
    assert Path(spec).read_text() == "before\n"


def test_two_plug_in_files_of_one_name_are_both_kept(tmp_path):
    specs = []
    for word in ("a", "b"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "mine.py").write_text(word)
        specs.append(str(tmp_path / word / "mine.py"))
    kept = snapshot.take(tmp_path / "code", specs)
    assert [Path(file).read_text() for file in kept] == ["a", "b"]


def test_a_plug_in_module_and_what_it_imports_beside_it_are_copied(tmp_path, working_folder):
    import minepack.mine  # type: ignore[import-not-found]  # noqa: F401  # as loading a cell does

    assert snapshot.take(tmp_path / "code", ["minepack.mine"]) == ["minepack.mine"]
    (working_folder / "minebeside.py").write_text("WORD = 'edited'\n")
    text = "import sys; sys.path.append('.')\nfrom minepack.mine import Mine; print(Mine.word)"
    assert python(tmp_path / "code", working_folder, text) == "as submitted"


def test_installed_libraries_are_not_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(sys.prefix).parent)
    snapshot.take(tmp_path / "code", ["pydantic"])
    assert not {"pydantic", "torch"} & {path.name for path in (tmp_path / "code").iterdir()}
