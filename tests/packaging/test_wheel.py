"""The wheel holds the tree, and puts nothing called methods or datasets on anyone's path."""

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOMES = {"mmbench": "mmbench", "methods": "mmbench/methods", "datasets": "mmbench/datasets",
         "studies": "mmbench/studies"}  # fmt: skip
KINDS = {".py", ".toml", ".npz", ".typed", ".txt", ".j2", ".css", ".js"}


def expected_files() -> set[str]:
    found = set()
    for folder, home in HOMES.items():
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in KINDS and "__pycache__" not in file.parts:
                found.add(f"{home}/{file.relative_to(ROOT / folder).as_posix()}")
    return found | {"mmbench/py.typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    for name in (*HOMES, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tree / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "-w", str(tree / "dist"), str(tree)],
        check=True, capture_output=True,
    )  # fmt: skip
    (made,) = (tree / "dist").glob("*.whl")
    return made


@pytest.mark.install
def test_file_list_matches_the_tree(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {n for n in archive.namelist() if ".dist-info/" not in n}
    assert inside == expected_files()


@pytest.mark.install
def test_clean_environment_sees_mmbench_and_no_top_level_neighbours(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    code = (
        "import importlib.util as u, mmbench, mmbench.methods, mmbench.datasets\n"
        "assert mmbench.__version__\n"
        "assert not [n for n in ('methods', 'datasets', 'studies') if u.find_spec(n)]"
    )
    subprocess.run([python, "-P", "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("name", ["methods", "datasets", "studies"])
def test_bare_import_is_refused(name):
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True,
        check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert f"import this package as 'mmbench.{name}'" in done.stderr


def test_every_package_on_disk_is_listed():
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    on_disk = {
        ".".join(Path(home, file.parent.relative_to(ROOT / folder)).parts)
        for folder, home in HOMES.items()
        for file in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == on_disk
