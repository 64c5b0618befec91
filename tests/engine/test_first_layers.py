"""The first layers of a ResNet on a GPU compute what torch's modules do.

Without a GPU Triton interprets the kernels (tests/conftest.py).
"""

import copy
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import max_pool2d

from mmbench.nets import resnet
from mmbench.nets.resnet import Residual, by_columns

pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")
norm_pool = pytest.importorskip("mmbench.nets.norm_pool")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def both(x, norm):
    """Return values, gradients and running statistics of the kernels, and of the modules."""
    found = []
    for fused in (True, False):
        mine, leaf = copy.deepcopy(norm), x.clone().requires_grad_()
        if fused:
            out = norm_pool.norm_relu_pool(leaf, mine)
        else:
            out = max_pool2d(mine(leaf.float()).relu(), 3, stride=2, padding=1)
        torch.manual_seed(1)
        out.backward(torch.randn(out.shape, device=x.device).to(out.dtype))
        grads = [leaf.grad, mine.weight.grad, mine.bias.grad]
        found.append([out, *grads, mine.running_mean, mine.running_var])
        assert int(mine.num_batches_tracked) == 1
    return found


def sample(n, c, h, w, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    x = (2 * torch.randn(n, c, h, w) + 1).to(DEVICE, dtype, memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(c).to(DEVICE)
    nn.init.normal_(norm.weight)  # of both signs
    nn.init.normal_(norm.bias)
    return x, norm


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.sampled_from([1, 4, 16]), st.integers(1, 37), st.integers(2, 37),
       st.integers(0, 99))  # fmt: skip
def test_norm_relu_and_pool_at_once_are_the_three(n, c, h, w, seed):
    x, norm = sample(n, c, h + 3, w + 3, seed)
    for got, want in zip(*both(x, norm), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_gradients_have_gradients():
    x, norm = sample(2, 4, 9, 12)
    found = []
    for fused in (True, False):
        mine, leaf = copy.deepcopy(norm), x.clone().requires_grad_()
        if fused:
            out = norm_pool.norm_relu_pool(leaf, mine)
        else:
            out = max_pool2d(mine(leaf).relu(), 3, stride=2, padding=1)
        sources = [leaf, mine.weight, mine.bias]
        first = torch.autograd.grad(out.square().sum(), sources, create_graph=True)
        product = sum((g * g.detach()).sum() for g in first)
        found.append([*first, *torch.autograd.grad(product, sources)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_the_result_is_in_channels_last():
    x, norm = sample(2, 8, 9, 12)
    out = norm_pool.norm_relu_pool(x, norm)
    assert out.shape == (2, 8, 5, 6)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_differs_by_its_rounding():
    x, norm = sample(2, 16, 12, 40, dtype=torch.bfloat16)
    got, want = both(x, norm)
    assert got[0].dtype is got[1].dtype is torch.bfloat16
    for mine, theirs in zip(got, want, strict=True):
        mine, theirs = mine.detach().float(), theirs.detach().float()
        gap = (mine - theirs).norm() / theirs.norm()
        assert float(gap) < 1e-2


def test_values_far_from_zero_keep_their_variance():
    x, norm = sample(2, 4, 9, 9)
    got, want = both(x + 1000, norm)
    torch.testing.assert_close(got[0], want[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(got[5], want[5], rtol=1e-3, atol=1e-3)


def test_what_is_not_a_number_is_not_lost():
    x, norm = sample(2, 4, 9, 9)
    x[1, 2, 3, 3] = float("nan")
    out = norm_pool.norm_relu_pool(x, norm)
    assert out[:, 2].isnan().all()
    assert out[:, [0, 1, 3]].isfinite().all()


def test_a_window_without_a_positive_value_passes_nothing_down():
    x, norm = sample(2, 4, 9, 9)
    nn.init.constant_(norm.bias, -100.0)
    out, grad, *_ = both(x, norm)[0]
    assert not out.any()
    assert not grad.any()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.integers(3, 20), st.integers(7, 40),
    st.sampled_from([(7, 2, 3), (3, 1, 1), (5, 3, 0), (3, 2, 1)]), st.booleans(),
)  # fmt: skip
def test_columns_as_channels_give_the_same_convolution(channels, height, width, sizes, bias):
    kernel, stride, padding = sizes
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 8, kernel, stride=stride, padding=padding, bias=bias).double()
    x = torch.randn(2, channels, max(height, kernel), width, dtype=torch.double)
    results = []
    for convolve in (conv, lambda x: by_columns(conv, x)):
        out = convolve(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(conv.parameters()))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_a_whole_network_trains_alike_compiled_or_not(monkeypatch):
    torch.manual_seed(0)
    net = Residual(resnet.BasicBlock, (1, 1, 1, 1)).to(DEVICE)
    x = torch.randn(8, 3, 65, 65, device=DEVICE).contiguous(memory_format=torch.channels_last)
    direction = torch.randn(8, 512, device=DEVICE)
    grads = []
    for quick, compiled in ((False, False), (True, False), (True, True)):
        monkeypatch.setattr(resnet, "_at_once", lambda x, norm, quick=quick: quick)
        mine = copy.deepcopy(net)
        run = torch.compile(mine, backend="aot_eager", fullgraph=True) if compiled else mine
        (run(x) * direction).sum().backward()
        grads.append([p.grad for p in mine.parameters()])
    for plain, fused, both_ways in zip(*grads, strict=True):
        assert float((fused - plain).norm()) <= 1e-4 * float(plain.norm())
        assert float((both_ways - plain).norm()) <= 1e-4 * float(plain.norm())


def test_the_kernels_are_for_training_alone_and_not_for_divided_norms(monkeypatch):
    norm = nn.BatchNorm2d(4)

    class OnGPU(torch.Tensor):
        is_cuda = True

    x = torch.randn(2, 4, 5, 5).as_subclass(OnGPU)
    assert resnet._at_once(x, norm)
    assert not resnet._at_once(x, copy.deepcopy(norm).eval())
    assert not resnet._at_once(x.double(), norm)
    assert not resnet._at_once(x.as_subclass(torch.Tensor), norm)
    divided = copy.deepcopy(norm)
    vars(divided)["forward"] = norm.forward
    assert not resnet._at_once(x, divided)
    monkeypatch.setattr(resnet, "TRITON", False)
    assert not resnet._at_once(x, norm)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mmbench.nets import norm_pool, norm_pool_kernels as kernels

TYPES = {
    kernels.norm_pool_moments: "*bf16 *fp32 i32",
    kernels.norm_pool_forward: "*bf16 *fp32 *fp32 *bf16 *i8 *bf16 i32 i32 i32 i32",
    kernels.norm_pool_sums: "*bf16 *i8 *bf16 *fp32 *fp32 *fp32 i32",
    kernels.norm_pool_backward: "*bf16 *i8 *bf16 *fp32 *fp32 *fp32 *bf16 i32 i32 i32 i32",
}
SIZES = {"C": 64, "ROWS": norm_pool.ROWS, "BLOCK": norm_pool.BLOCK}
for capability in (80, 90):
    for kernel, types in TYPES.items():
        sizes = {name: SIZES[name] for name in kernel.arg_names if name in SIZES}
        others = [name for name in kernel.arg_names if name not in sizes]
        signature = dict(zip(others, types.split(), strict=True))
        source = ASTSource(kernel, signature | dict.fromkeys(sizes, "constexpr"), sizes)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert made.asm["cubin"], kernel
print("compiled")
"""


def test_the_kernels_compile_for_gpus_of_two_generations(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMPILE], capture_output=True, text=True, check=False,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert done.stdout == "compiled\n", done.stderr
