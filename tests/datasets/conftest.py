"""One prepared cache for all tests of the embedded sets, and the tools under test as modules."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmbench.data import cache as data_cache
from mmbench.registry import DATASETS

TOOLS = Path(__file__).parents[2] / "tools"


def make(name, **options):
    cls = DATASETS.load(name)
    return cls(cls.Config(**options))


@pytest.fixture(scope="session")
def tool():
    """Load a script of tools/ by name, once."""
    loaded = {}

    def load(name):
        if name not in loaded:
            spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
            loaded[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded[name])
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """The session's cache: make a dataset, prepare it once, load it."""
    folder = tmp_path_factory.mktemp("embedded")

    def load(name, **options):
        return data_cache.ensure(make(name, **options), cache=folder)

    return SimpleNamespace(make=make, load=load, cache=folder)


@pytest.fixture(scope="session")
def measured(embedded, tool):
    """Accuracies of logistic regression, each case computed once."""
    done = {}

    def strengths(name, **options):
        key = (name, *sorted(options.items()))
        if key not in done:
            splits = embedded.load(name, **options).splits
            done[key] = tool("measure_datasets").strengths(name, splits)
        return done[key]

    return strengths
