"""``--datasets all`` and ``embedded``: what needs nothing, what is prepared, what is left out."""

from mmbench.registry import DATASETS
from mmbench.sweep import Request, expand, unprepared


def names(cache, asked):
    request = Request(methods=["concat"], datasets=[asked], seeds=[0])
    return sorted({cell.dataset for cell in expand(request, cache)})


def test_embedded_are_those_that_need_nothing_and_are_data(tmp_path):
    assert names(tmp_path, "embedded") == ["avdigits", "mfeat3"]


def test_all_takes_what_is_prepared_here(tmp_path):
    from mmbench.data import cache as data_cache

    assert names(tmp_path, "all") == ["avdigits", "mfeat3"]
    cls = DATASETS.load("synthetic")
    data_cache.prepare(cls(), cache=tmp_path)
    assert names(tmp_path, "all") == ["avdigits", "mfeat3", "synthetic"]


def test_what_is_left_out_comes_with_the_command_that_prepares_it(tmp_path):
    needing = {n for n in DATASETS.names() if not DATASETS.load(n).embedded}
    left = unprepared(tmp_path)
    assert set(left) == needing
    assert all(line.startswith(f"mmbench prepare {name} --root DIR") for name, line in left.items())
