"""Every registered method keeps the contract that ``mmbench test`` checks, and stays finite."""

import pytest
import torch

from mmbench.contract.suite import plan, run_one
from mmbench.contract.toy import toy_task
from mmbench.registry import METHODS

NAMES = METHODS.names()
CASES = [(name, *case) for name in NAMES for case in plan(METHODS.load(name))]


@pytest.mark.parametrize(("name", "check", "modalities"), CASES)
def test_keeps_the_contract(name, check, modalities):
    cls = METHODS.load(name)
    result = run_one(cls, check, modalities)
    refusal = cls.refuse(toy_task(modalities), cls.Config())
    if refusal is None:
        assert result.outcome == "pass", result.detail
    else:
        assert result.outcome == "refused"
        assert name in refusal


@pytest.mark.parametrize("fidelity", ["corrected", "released"])
@pytest.mark.parametrize("name", NAMES)
def test_batch_of_one_and_one_class_stay_finite(name, fidelity, make_bench, make_batch):
    cls = METHODS.load(name)
    options = cls.released() if fidelity == "released" else {}
    if "scope" in options:  # the encoders here have no convolution to modulate
        options["scope"] = "ndim>=2"
    bench = make_bench(name, classes=2, **options)
    bench.method.on_fit_start()
    bench.method.on_epoch_start()
    batch = make_batch(samples=1, classes=2)
    assert all(torch.isfinite(torch.tensor(v)) for v in bench.step(batch).values())


@pytest.mark.parametrize("name", NAMES)
def test_bundles_hold_options_that_exist(name):
    cls = METHODS.load(name)
    own = {k: v for k, v in cls.authors.items() if not k.startswith("trainer.")}
    cls.Config(**own)
    cls.Config(**cls.released())
    for deviation in cls.deviations:
        assert getattr(cls.Config(), deviation.option) == deviation.corrected
        assert deviation.released != deviation.corrected
        assert deviation.why.endswith(".")
