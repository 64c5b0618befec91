"""What every embedded dataset promises: no leak, balanced classes, the documented sizes."""

import pytest

from mmbench.data import cache as data_cache
from mmbench.data.verify import verify
from mmbench.registry import DATASETS

SIZES = {
    "mfeat3": {"train": 1200, "val": 200, "test": 600},
    "avdigits": {"train": 2000, "val": 500, "test": 1000},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", sorted(SIZES))
def test_verify_finds_no_leak_and_balanced_classes(name, cache):
    cls = DATASETS.load(name)
    dataset = cls(cls.Config())
    prepared = data_cache.ensure(dataset, cache=cache)
    checks = verify(dataset, cache=cache)
    assert {s: len(a) for s, a in prepared.splits.items()} == SIZES[name]
    assert [c for c in checks if not c.ok] == []
    assert {"hashes", "groups train/test", "ids train/val"} <= {c.name for c in checks}
