"""What steps log is summed exactly, whatever they log, and the first bad loss is found."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbench.training.meter import LOOK, Meter

CPU = torch.device("cpu")
NUMBERS = st.floats(-1e6, 1e6, width=32)
STEPS = st.lists(st.dictionaries(st.sampled_from("abcd"), NUMBERS, min_size=1), max_size=9)


@given(STEPS)
def test_means_are_those_of_sums_in_double_precision_one_step_after_the_other(steps):
    meter, sums, counts = Meter(CPU), {}, {}
    for step in steps:
        meter.add({name: torch.tensor(value) for name, value in step.items()})
        for name, value in step.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1
    assert meter.means() == {name: sums[name] / counts[name] for name in sums}


@given(STEPS, STEPS)
def test_a_meter_goes_on_from_what_it_saved(before, after):
    whole, first, second = Meter(CPU), Meter(CPU), Meter(CPU)
    for number, step in enumerate(before + after):
        if number == len(before):
            second.load(first.state())
        values = {name: torch.tensor(value) for name, value in step.items()}
        for meter in (whole, first if number < len(before) else second):
            meter.add(values)
            meter.watch(torch.tensor(1.0 if number % 4 else math.inf), number)
    if after:
        assert second.means() == whole.means()
        assert second.first_bad() == whole.first_bad()


def test_numbers_of_different_precision_and_shape_are_summed_alike():
    meter = Meter(CPU)
    values = [torch.tensor(0.5), torch.tensor([0.25], dtype=torch.float64)]
    values.append(torch.tensor(2.0, dtype=torch.bfloat16))
    meter.add(dict(zip("abc", values, strict=True)))
    assert meter.means() == {"a": 0.5, "b": 0.25, "c": 2.0}


@pytest.mark.parametrize(
    ("number", "beside"),
    [
        (torch.tensor(2**24 + 1), torch.float32),
        (torch.tensor(257), torch.bfloat16),
        (torch.tensor(70000), torch.float16),
        (torch.tensor(True), torch.float32),
    ],
)
def test_a_number_keeps_its_digits_beside_one_of_another_kind(number, beside):
    meter = Meter(CPU)
    meter.add({"number": number, "beside": torch.tensor(0.5, dtype=beside)})
    assert meter.means() == {"number": float(number), "beside": 0.5}


def test_nothing_to_add_is_nothing():
    meter = Meter(CPU)
    meter.add({})
    assert meter.means() == {}


def test_names_stand_in_the_order_in_which_they_first_came():
    meter, one = Meter(CPU), torch.tensor(1.0)
    for names in ("ba", "cb", "ac"):
        meter.add(dict.fromkeys(names, one))
    assert list(meter.means()) == ["b", "a", "c"]


def test_a_loss_may_be_a_part_of_something_large_which_is_let_go():
    meter, large = Meter(CPU), torch.zeros(10**6)
    meter.watch(large[3], 0)
    meter.watch(torch.tensor([math.nan]), 1)
    assert meter.losses[0].untyped_storage().nbytes() < 100
    assert meter.first_bad() == 1


@pytest.mark.parametrize("bad", [0, 3, LOOK - 1, LOOK, 2 * LOOK + 5])
@pytest.mark.parametrize("start", [0, 7])
def test_the_first_loss_that_is_not_finite_is_found_among_any_number(bad, start):
    meter = Meter(CPU)
    for step in range(3 * LOOK):
        meter.watch(torch.tensor(math.nan if step in (bad, bad + 9) else 1.0), start + step)
    assert meter.first_bad() == start + bad


def test_finite_losses_are_none_and_a_reset_forgets():
    meter = Meter(CPU)
    assert meter.first_bad() == -1
    assert meter.means() == {}
    meter.watch(torch.tensor(math.inf), 0)
    assert meter.first_bad() == 0
    meter.reset()
    meter.watch(torch.tensor(1.0), 0)
    assert meter.first_bad() == -1
