"""``--datasets all`` and ``embedded``: what needs nothing, what is prepared, what is left out."""

from dataclasses import replace

import pytest
from mmbench.datasets import layouts

from mmbench.data import cache as data_cache
from mmbench.errors import UserError
from mmbench.registry import DATASETS
from mmbench.sweep import Request, expand, unprepared


def request(asked="all", **more):
    return Request(methods=["concat"], datasets=[asked], seeds=[0], **more)


def names(cache, asked):
    return sorted({cell.dataset for cell in expand(request(asked), cache)})


def test_embedded_are_those_that_need_nothing_and_are_data(tmp_path):
    assert names(tmp_path, "embedded") == ["avdigits", "mfeat3"]


def test_all_takes_what_is_prepared_here(tmp_path):
    assert names(tmp_path, "all") == ["avdigits", "mfeat3"]
    cls = DATASETS.load("synthetic")
    data_cache.prepare(cls(), cache=tmp_path)
    assert names(tmp_path, "all") == ["avdigits", "mfeat3", "synthetic"]


def test_what_is_left_out_comes_with_the_command_that_prepares_it(tmp_path):
    needing = {n for n in DATASETS.names() if not DATASETS.load(n).embedded}
    left = unprepared(request(), tmp_path)
    assert set(left) == needing
    assert all(
        line == f"is not prepared; mmbench prepare {name} --root DIR --cache {tmp_path}"
        for name, line in left.items()
    )


def test_all_takes_what_is_prepared_with_the_options_given_and_names_them_otherwise(tmp_path):
    root, cache = tmp_path / "root", tmp_path / "cache"
    layouts.sarcasm(root)
    cls = DATASETS.load("sarcasm")
    data_cache.prepare(cls(cls.Config(size=24, length=8)), cache=cache, root=root)
    options = "--set sarcasm.length=8 --set sarcasm.size=24"
    said = unprepared(request(), cache)["sarcasm"]
    assert said == f"is prepared with other options; add {options}"
    with pytest.raises(
        UserError, match=f"with these options; .*or take what is prepared: {options}"
    ):
        data_cache.ensure(cls(), cache=cache)
    given = {"sarcasm.length": 8, "sarcasm.size": 24}
    assert "sarcasm" not in unprepared(request(settings=given), cache)
    found = {cell.dataset for cell in expand(request(settings=given), cache)}
    assert found == {"avdigits", "mfeat3", "sarcasm"}


def test_a_table_in_the_place_of_a_name_is_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"a table is prepared first: mmbench prepare my\.csv"):
        expand(replace(request(), datasets=["my.csv"]), tmp_path)
