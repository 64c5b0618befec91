"""What the gradient-touching methods promise together: no waiting, half precision, presets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.modulated import WindowConfig
from torch.utils._python_dispatch import TorchDispatchMode

from mmbench.method import Batch
from mmbench.registry import METHODS

SHARES = st.integers(0, 64).map(lambda n: n / 64)
NAMES = ("ogm", "ogm-ge", "pmr", "agm", "mmpareto")
OPTIONS = [
    *[(name, {}) for name in NAMES],
    *[(name, METHODS.load(name).released()) for name in ("agm", "mmpareto")],
    *[(name, {"fusion": "sum"}) for name in NAMES[:4]],
    ("pmr", {"guard": False, "gate": "clip", "per_mu": 0.1}),
    ("agm", {"mode": "encoder_scale"}),
    ("mmpareto", {"norm_scope": "encoder"}),
]


class NoWaiting(TorchDispatchMode):
    """Refuses the operations that read a value back from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")
        assert func.overloadpacket.__name__ not in waits, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_check_notices_a_wait():
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        torch.ones(()).item()


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_step_never_waits_for_the_device(name, options, make_bench, make_batch):
    modalities = ("a", "v", "t")
    bench = make_bench(name, modalities, **options)
    bench.method.on_fit_start()
    batch = make_batch(modalities)
    with NoWaiting():
        bench.method.step(batch)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_finite(name, make_bench, make_batch):
    bench = make_bench(name)
    bench.method.float()
    bench.trainer.loaders["train"].dtype = torch.float32
    bench.method.on_fit_start()
    for seed in range(3):
        batch = make_batch(seed=seed)
        inputs = {m: x.float() for m, x in batch.inputs.items()}
        with torch.autocast("cpu", torch.bfloat16):
            log = bench.method.step(Batch(inputs, batch.label, batch.index))
        assert all(value.isfinite() for value in log.values())
    assert all(p.isfinite().all() for p in bench.method.parameters())


@given(start=SHARES, end=SHARES, epochs=st.integers(1, 300), epoch=st.integers(0, 299))
def test_a_window_in_shares_is_the_one_in_epochs(start, end, epochs, epoch):
    start, end = sorted((start, end))
    shares = WindowConfig(starts=start, ends=end)
    counted = WindowConfig(starts=start * epochs, ends=end * epochs, window_unit="epochs")
    assert shares.acts(epoch, epochs) == counted.acts(epoch, epochs)
    if shares.acts(epoch, epochs):
        assert WindowConfig(starts=0.0, ends=1.0).acts(epoch, epochs)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_beyond_the_paper_is_remarked_on(name, make_bench):
    remark = METHODS.load(name).remark(make_bench(name, ("a", "v", "t")).method.task)
    assert (remark is not None) is (name in {"ogm", "ogm-ge", "pmr"})
