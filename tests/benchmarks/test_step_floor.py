"""The least that a step takes is counted from its convolutions and what is between them."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from mmbench.settings import TrainerSettings
from mmbench.testing.speed import audiovisual, step_flops, step_work
from mmbench.testing.traffic import CONVOLUTIONS, NORMS, Traffic, Work

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step_floor.py"
N, C, H, W = 2, 4, 8, 8
TASK = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)


def test_a_convolution_reads_its_factors_and_writes_its_result_in_each_direction():
    x = torch.zeros(N, C, H, W, requires_grad=True)
    conv = nn.Conv2d(C, 6, 3, padding=1, bias=False)
    with Traffic() as seen:
        conv(x).sum().backward()
    flops = 2 * N * H * W * 6 * C * 9
    elements = N * C * H * W + 6 * C * 9 + N * 6 * H * W
    assert seen.found == [Work(CONVOLUTIONS, flops, elements)] * 3


def test_a_convolution_of_the_input_has_no_pass_towards_it():
    conv = nn.Conv2d(C, 6, 1)
    with Traffic() as seen:
        conv(torch.zeros(N, C, H, W)).sum().backward()
    assert len(seen.found) == 2


def test_a_norm_with_relu_and_sum_goes_nine_times_through_a_tensor():
    x = torch.zeros(N, C, H, W, requires_grad=True)
    norm = nn.BatchNorm2d(C)
    with Traffic() as seen:
        (norm(x) + torch.ones(N, C, H, W)).relu().sum().backward()
    assert {work.kind for work in seen.found} == {NORMS}
    assert sum(work.elements for work in seen.found) == 9 * N * C * H * W


def test_a_pool_leaves_the_norm_before_it_less_to_write():
    x = torch.zeros(N, C, H, W, requires_grad=True)
    norm, pool = nn.BatchNorm2d(C), nn.MaxPool2d(3, stride=2, padding=1)
    with Traffic() as seen:
        pool(norm(x).relu()).sum().backward()
    size = N * C * H * W
    assert sum(work.elements for work in seen.found) == 4 * size + 4 * size // 4


def test_two_norms_before_a_sum_are_one_operation():
    one, two = (torch.zeros(N, C, H, W, requires_grad=True) for _ in "12")
    with Traffic() as seen:
        (nn.BatchNorm2d(C)(one) + nn.BatchNorm2d(C)(two)).relu().sum().backward()
    assert sum(work.elements for work in seen.found) == (5 + 8) * N * C * H * W


def test_what_follows_a_norm_in_place_is_no_norm_of_its_own():
    one, two = (torch.zeros(N, C, H, W, requires_grad=True) for _ in "12")
    with Traffic() as seen:
        before = nn.BatchNorm2d(C)(one).relu_()
        nn.BatchNorm2d(C)(two).add_(before).relu_().sum().backward()
    assert sum(work.elements for work in seen.found) == (8 + 8 + 1) * N * C * H * W


def test_a_convolution_reads_only_what_its_stride_meets():
    x = torch.zeros(N, C, H, W)
    with Traffic() as seen:
        nn.Conv2d(C, 6, 1, stride=2, bias=False)(x)
    (work,) = seen.found
    assert work.elements == N * C * H * W // 4 + 6 * C + N * 6 * H * W // 4


def test_an_operation_takes_what_its_arithmetic_or_its_memory_takes():
    assert Work(CONVOLUTIONS, 100, 10).seconds(flops=10, bandwidth=10, width=2) == 10
    assert Work(CONVOLUTIONS, 10, 100).seconds(flops=10, bandwidth=10, width=2) == 20


def test_a_step_has_the_arithmetic_that_is_counted_elsewhere():
    settings = TrainerSettings(batch_size=2)
    (whole,) = step_flops("concat", TASK, settings, range(4, 5))
    convolutions = sum(work.flops for work in step_work("concat", TASK, settings))
    assert convolutions == pytest.approx(whole, rel=0.001)  # without the head


def test_the_script_says_what_a_step_takes_at_least(capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    main(["--tflops", "1", "--tbytes", "1000", "--batch", "2", "--audio", "1,33,33",
          "--visual", "3,1,33,33"])  # fmt: skip
    slow = capsys.readouterr().out
    (flops,) = step_flops("concat", TASK, TrainerSettings(batch_size=2), range(4, 5))
    assert f"at least {flops / 1e9:.1f} ms" in slow
    cells = [row.split("|")[1:-1] for row in slow.splitlines() if row.startswith("|")]
    assert [row[0].strip() for row in cells[2:]] == [CONVOLUTIONS, NORMS, "together"]
    parts, whole = [float(row[5]) for row in cells[2:4]], float(cells[4][5])
    assert whole == pytest.approx(sum(parts), abs=0.11)
