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
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import max_pool2d
from torch.utils._pytree import tree_map_only

from mmbench.nets import resnet
from mmbench.nets.resnet import Residual, by_columns
from mmbench.settings import RunSettings, TrainerSettings
from mmbench.testing.speed import audiovisual, make_trainer, random_loader

pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")

from mmbench.nets import norm_pool

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pooled(x, norm, fused):
    if fused:
        return norm_pool.norm_relu_pool(x, norm)
    return max_pool2d(norm(x.float()).relu(), 3, stride=2, padding=1)


def both(x, norm):
    """Return values, gradients and running statistics of the kernels, and of the modules."""
    found = []
    for fused in (True, False):
        mine, leaf = copy.deepcopy(norm), x.clone().requires_grad_()
        out = pooled(leaf, mine, fused)
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
        out = pooled(leaf, mine, fused)
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


def test_what_is_kept_for_the_backward_pass_is_in_channels_last_as_a_compiler_sees_it():
    x, norm = sample(2, 8, 9, 12)
    weight, bias = norm.weight.detach(), norm.bias.detach()
    first = (x, weight, bias, norm.eps)
    pooled, codes, picked, mean, variance = torch.ops.mmbench.norm_relu_pool(*first)
    second = (pooled, x, codes, picked, weight, mean, variance, norm.eps)
    for operation, arguments, large in (
        (torch.ops.mmbench.norm_relu_pool.default, first, 3),
        (torch.ops.mmbench.norm_relu_pool_backward.default, second, 1),
    ):
        torch.library.opcheck(operation, arguments, test_utils=("test_schema", "test_faketensor"))
        with FakeTensorMode() as fake:
            seen = operation(*tree_map_only(torch.Tensor, fake.from_tensor, arguments))
        assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen[:large])


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
    x[0, :, 0, 0] = -3000.0  # a corner that is not like the rest
    got, want = both(x + 1000, norm)
    torch.testing.assert_close(got[0], want[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got[5], want[5], rtol=1e-5, atol=0)


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


@pytest.mark.parametrize("size", [(4, 4, 1, 9), (4, 4, 9, 1), (9, 4, 1, 1), (1, 4, 2, 5)])
def test_the_smallest_sizes_are_no_exception(size):
    for got, want in zip(*both(*sample(*size)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize("channels", [1, 3])
def test_columns_as_channels_are_laid_out_once_for_both_directions(channels, monkeypatch):
    convolve, seen = torch.nn.functional.conv2d, []

    def spy(x, *more):
        seen.append(x)
        return convolve(x, *more)

    monkeypatch.setattr(resnet.F, "conv2d", spy)
    by_columns(nn.Conv2d(channels, 4, 7, stride=2, padding=3), torch.randn(2, channels, 9, 12))
    (folded,) = seen
    assert folded.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_network_trains_alike_compiled_or_not(channels):
    torch.manual_seed(0)
    net = Residual(resnet.BasicBlock, (1, 1, 1, 1))
    net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    net.to(DEVICE)
    x, direction = torch.randn(8, channels, 65, 65, device=DEVICE), torch.randn(8, 512).to(DEVICE)
    grads = []
    for quick, compiled in ((False, False), (True, False), (True, True)):
        mine = copy.deepcopy(net)
        mine.columns = mine.kernels = quick
        run = torch.compile(mine, backend="aot_eager", fullgraph=True) if compiled else mine
        (run(x) * direction).sum().backward()
        grads.append([p.grad for p in mine.parameters()])
    for plain, fused, both_ways in zip(*grads, strict=True):
        assert float((fused - plain).norm()) <= 1e-4 * float(plain.norm())
        assert float((both_ways - plain).norm()) <= 1e-4 * float(plain.norm())


@pytest.mark.slow
def test_under_autocast_the_first_layers_are_in_half_precision_and_agree():
    torch.manual_seed(0)
    net = Residual(resnet.BasicBlock, (1, 1, 1, 1)).to(DEVICE)
    x, features, seen = torch.randn(8, 3, 65, 65, device=DEVICE), [], []
    net.layer1.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].dtype))
    for quick in (False, True):
        net.columns = net.kernels = quick
        with torch.autocast(DEVICE, torch.bfloat16):
            features.append(net(x).detach().float())
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert float((features[1] - features[0]).norm() / features[0].norm()) < 0.05


def test_the_kernels_are_for_training_alone_and_not_for_divided_norms():
    norm, x = nn.BatchNorm2d(4), torch.randn(2, 4, 5, 5)
    assert resnet._at_once(x, norm)
    assert not resnet._at_once(x, copy.deepcopy(norm).eval())
    assert not resnet._at_once(x.double(), norm)
    assert not resnet._at_once(x[:1, :, :1, :1], norm)
    divided = copy.deepcopy(norm)
    vars(divided)["forward"] = norm.forward
    assert not resnet._at_once(x, divided)


def test_only_a_gpu_in_channels_last_has_other_first_layers(tmp_path):
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)
    loader = random_loader(task, 4, 2, torch.device("cpu"))
    settings, run = TrainerSettings(batch_size=2), RunSettings(memory_format="channels_last")
    trainer = make_trainer("concat", task, loader, settings, tmp_path, run)
    nets = [m for m in trainer.method.modules() if isinstance(m, Residual)]
    assert len(nets) == 2
    assert not any(net.columns or net.kernels for net in nets)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels can be built here")
def test_where_the_kernels_cannot_be_built_the_reason_is_told_and_torch_goes_on(caplog):
    resnet.kernels_work.cache_clear()
    net = Residual(resnet.BasicBlock, (1, 1, 1, 1))
    net.quicken(torch.device("cuda"))
    assert net.columns
    assert not net.kernels
    assert "ResNets go on with torch's own layers, which are slower: Triton: " in caplog.text
    assert not resnet.kernels_work(torch.device("cpu"))


def test_an_input_too_small_for_the_kernel_is_refused_as_torch_does():
    conv = nn.Conv2d(1, 4, 7)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        by_columns(conv, torch.zeros(1, 1, 9, 6))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mmbench.nets import norm_pool, norm_pool_kernels as kernels

TYPES = {
    kernels.norm_pool_moments: "*T *fp32 *fp32 i32",
    kernels.norm_pool_forward: "*T *fp32 *fp32 *T *i8 *T i32 i32 i32 i32",
    kernels.norm_pool_sums: "*T *i8 *T *fp32 *fp32 *fp32 i32",
    kernels.norm_pool_backward: "*T *i8 *T *fp32 *fp32 *fp32 *T i32 i32 i32 i32",
}
SIZES = {"C": 64, "ROWS": norm_pool.ROWS, "BLOCK": norm_pool.BLOCK}
for capability, dtype in ((80, "bf16"), (90, "bf16"), (90, "fp16"), (90, "fp32")):
    for kernel, types in TYPES.items():
        sizes = {k: v for k, v in SIZES.items() if k in kernel.arg_names}
        types = types.replace("T", dtype).split()
        known = [name for name in kernel.arg_names if name not in SIZES]
        signature = dict(zip(known, types, strict=True)) | dict.fromkeys(sizes, "constexpr")
        made = triton.compile(
            ASTSource(kernel, signature, sizes), target=GPUTarget("cuda", capability, 32)
        )
        assert made.asm["cubin"], kernel
        numbers = [name for name, kind in signature.items() if kind == "i32"]
        assert numbers == [p.name for p in kernel.params if p.do_not_specialize], kernel
print("compiled")
"""


def test_the_kernels_compile_for_gpus_of_two_generations_and_once_for_all_sizes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMPILE], capture_output=True, text=True, check=False,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert done.stdout == "compiled\n", done.stderr
