"""Names are found by being there, never twice, and a plug-in needs no import of heavy things."""

import subprocess
import sys
from importlib import metadata

import pytest

from mmbench import registry
from mmbench.errors import UserError
from mmbench.method import Method
from mmbench.registry import METHODS, Registry, load_plugin

METHOD = '''
from mmbench.method import Method
from mmbench.registry import register_method


@register_method("{name}")
class Mine(Method):
    """A method of mine."""
'''


@pytest.fixture
def fresh(monkeypatch):
    """Return a registry of its own, so that what is added here is forgotten."""
    own = Registry("method", "mmbench.methods", "register_method", "mmbench.methods")
    monkeypatch.setattr(registry, "METHODS", own)
    monkeypatch.setattr(registry, "REGISTRIES", (own, registry.DATASETS, registry.ENCODERS))
    return own


def write(folder, name, file="mine.py"):
    path = folder / file
    path.write_text(METHOD.format(name=name))
    return path


def test_every_file_of_methods_is_found_and_loads():
    assert {"concat", "iprm", "ogm-ge", "ogr-gb"} <= set(METHODS.names())
    for name in METHODS.names():
        cls = METHODS.load(name)
        assert issubclass(cls, Method)
        assert cls.name == name
        assert METHODS.entry(name).file.stem == name.replace("-", "_")
        assert METHODS.entry(name).summary


def test_plugin_file_is_listed_without_being_imported(fresh, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("raise RuntimeError('imported')\n" + METHOD.format(name="mine"))
    load_plugin(str(file))
    assert "mine" in fresh.names()
    assert fresh.entry("mine").origin == "plugin"
    assert fresh.entry("mine").summary == "A method of mine."


def test_plugin_module_is_found_by_its_dotted_name(fresh, tmp_path, monkeypatch):
    package = tmp_path / "somepackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write(package, "dotted", "inner.py")
    monkeypatch.syspath_prepend(tmp_path)
    load_plugin("somepackage.inner")
    assert fresh.entry("dotted").module == "somepackage.inner"


def test_entry_points_of_installed_packages_are_found(fresh, tmp_path, monkeypatch):
    write(tmp_path, "installed", "installed_method.py")
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("x", "installed_method", "mmbench.methods")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    assert fresh.entry("installed").origin == "entry point"


def test_entry_point_that_registers_nothing_is_an_error(fresh, tmp_path, monkeypatch):
    (tmp_path / "empty_method.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("x", "empty_method", "mmbench.methods")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    with pytest.raises(UserError, match="registers no method"):
        fresh.names()


@pytest.mark.parametrize("taken", ["concat", "mine"])
def test_a_name_registered_twice_shows_both_files(taken, fresh, tmp_path):
    first = write(tmp_path, "mine", "first.py")
    load_plugin(str(first))
    second = write(tmp_path, taken, "second.py")
    with pytest.raises(UserError) as caught:
        load_plugin(str(second))
    assert "registered twice" in str(caught.value)
    assert "second.py" in str(caught.value)
    assert ("first.py" if taken == "mine" else "concat.py") in str(caught.value)


def test_the_same_plugin_twice_is_one(fresh, tmp_path):
    file = str(write(tmp_path, "mine"))
    load_plugin(file)
    load_plugin(file)
    assert fresh.names().count("mine") == 1


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match=r"unknown method 'orgm'.*did you mean 'ogm'"):
        METHODS.load("orgm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "registers nothing"),
        ("def broken(:\n", "mine.py"),
        (METHOD.format(name="All Of It"), "cannot use the name"),
        (METHOD.format(name="all"), "cannot use the name"),
    ],
)
def test_unusable_plugins_are_explained(text, message, fresh, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_plugin(str(file))


@pytest.mark.parametrize("spec", ["nowhere.py", "no.such.module", ""])
def test_missing_plugins_are_explained(spec, fresh):
    with pytest.raises(UserError, match=r"no plug-in|cannot find"):
        load_plugin(spec)


def test_missing_library_of_a_plugin_is_named(fresh, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import notinstalled\n" + METHOD.format(name="mine"))
    load_plugin(str(file))
    with pytest.raises(UserError, match="notinstalled"):
        fresh.load("mine")


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from mmbench.registry import METHODS, DATASETS; "
        "METHODS.names(), DATASETS.names(); "
        "heavy = {'torch', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
