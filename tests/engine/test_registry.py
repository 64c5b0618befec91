"""Names are found by being there, never twice, and a plug-in needs no import of heavy things."""

import subprocess
import sys
from importlib import metadata

import pytest

from mmbench import plugins, registry
from mmbench.errors import UserError
from mmbench.method import Method
from mmbench.plugins import load_plugin
from mmbench.registry import METHODS, Registry
from mmbench.sweep import Request, expand

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
    was = registry.METHODS
    own = Registry(was.kind, was.package, was.decorator, was.group, was.base)
    monkeypatch.setattr(registry, "METHODS", own)
    monkeypatch.setattr(plugins, "REGISTRIES", (own, registry.DATASETS, registry.ENCODERS))
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


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "registers no method"), ("def broken(:", "cannot read"), (None, "cannot find")],
)
def test_a_broken_entry_point_is_left_out_and_named_when_missed(
    text, reason, fresh, tmp_path, monkeypatch, caplog
):
    if text is not None:
        (tmp_path / "their_method.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("x", "their_method", "mmbench.methods")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    assert "concat" in fresh.names()
    assert reason in caplog.text
    with pytest.raises(UserError, match=rf"(?s)unknown method 'theirs'.*{reason}"):
        fresh.entry("theirs")


def test_a_run_of_a_broken_entry_points_method_says_what_is_wrong(fresh, tmp_path, monkeypatch):
    point = metadata.EntryPoint("x", "their_method", "mmbench.methods")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    monkeypatch.setattr("mmbench.sweep.METHODS", fresh)
    with pytest.raises(UserError, match=r"(?s)unknown method 'theirs'.*cannot find"):
        expand(Request(methods=["theirs"], datasets=["mfeat3"], seeds=[0]), tmp_path)


def test_a_run_suggests_the_names_of_groups_too(tmp_path):
    with pytest.raises(UserError, match=r"unknown dataset 'embeded'; did you mean 'embedded'"):
        expand(Request(methods=["sum"], datasets=["embeded"], seeds=[0]), tmp_path)


def test_an_entry_point_that_takes_a_name_again_makes_that_name_an_error(
    fresh, tmp_path, monkeypatch
):
    (tmp_path / "their_method.py").write_text(METHOD.format(name="concat"))
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("x", "their_method", "mmbench.methods")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    assert fresh.entry("sum").origin == "built-in"
    with pytest.raises(UserError, match=r"registered twice: in .*concat.py and in .*their_method"):
        fresh.entry("concat")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", r"mine.py, line 3: ZeroDivisionError: division by zero; correct the file"),
        ("import sys; sys.exit(3)", r"mine.py, line 3: SystemExit: 3"),
        ("class Plain: pass", r"as a method and it is a class Mine; make it a subclass of mmbench"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_explained(body, message, tmp_path):
    file = tmp_path / "mine.py"
    name = f"mine-{abs(hash(body))}"
    marked = f'@register_method("{name}")\nclass Mine: ...\n'
    head = "from mmbench.registry import register_method\n\n"
    file.write_text(head + body + "\n" + marked)
    load_plugin(str(file))
    try:
        with pytest.raises(UserError, match=message):
            METHODS.load(name)
    finally:
        METHODS._entries.pop(name)


def test_only_files_outside_the_package_have_a_source_hash(fresh, tmp_path):
    file = write(tmp_path, "mine")
    load_plugin(str(file))
    first = fresh.entry("mine").source()
    assert fresh.entry("concat").source() is None and len(first) == 16
    file.write_text(file.read_text() + "\n# edited\n")
    assert fresh.entry("mine").source() != first


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
        (METHOD.format(name="9lives"), "begin with a letter"),
        (METHOD.format(name="class"), "no word of Python's own"),
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
