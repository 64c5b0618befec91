"""What can be typed is read exactly, and what cannot be meant is refused with a reason."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.errors import UserError
from mmbench.settings import Settings, TrainerSettings, as_typed, parse_value, setting, validate


class Sample(Settings):
    rate: float = setting(0.5, "a rate", source="here", ge=0, le=1)
    count: int = setting(3, "a count", source="here", ge=0)
    flag: bool = setting(True, "a flag", source="here")
    name: str = setting("x", "a name", source="here")
    limit: float | None = setting(None, "a limit", source="here", gt=0)
    kind: Literal["none", "all"] = setting("all", "a kind", source="here")
    parts: tuple[float, ...] = setting((1.0,), "parts", source="here")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("0.0", 0.0), ("false", False), ("true", True), ("", ""), ('""', ""),
        ("none", None), ("null", None), ("[]", []), ("[1, 2]", [1, 2]), ("1e-4", 1e-4),
        ("-1", -1), ("text", "text"), ('"0"', "0"), ("{a = 1}", {"a": 1}),
        ("2026-11-24", "2026-11-24"), ("1\nb = 2", "1\nb = 2"),
    ],
)  # fmt: skip
def test_values_are_read_as_typed(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@given(st.text())
def test_any_text_is_read_without_an_error(text):
    parse_value(text)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60))
def test_numbers_survive(number):
    assert parse_value(repr(number)) == number


@pytest.mark.parametrize(
    ("key", "value"),
    [("rate", 0), ("rate", 0.0), ("count", 0), ("flag", False), ("name", ""), ("limit", None),
     ("kind", None), ("parts", [])],
)  # fmt: skip
def test_zero_false_and_empty_can_be_passed(key, value):
    found = getattr(validate(Sample, {key: value}, "sample"), key)
    assert found == {"kind": "none", "parts": ()}.get(key, value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 2}, r"'sample.rate' cannot be 2; allowed: number >= 0 and <= 1"),
        ({"rate": float("nan")}, "'sample.rate' cannot be nan"),
        ({"rate": float("inf")}, "'sample.rate' cannot be inf"),
        ({"rate": True}, "'sample.rate' cannot be true"),
        ({"count": 1.5}, r"'sample.count' cannot be 1.5.*allowed: integer >= 0"),
        ({"count": "many"}, "'sample.count' cannot be 'many'"),
        ({"kind": "some"}, "allowed: one of none, all"),
        ({"limit": 0}, "'sample.limit' cannot be 0"),
        ({"rat": 1}, "unknown setting 'sample.rat'; did you mean 'rate'"),
        ({"parts": ["x"]}, r"'sample.parts.0' cannot be 'x'"),
    ],
)
def test_mistakes_name_key_value_and_what_is_allowed(values, message):
    with pytest.raises(UserError, match=message):
        validate(Sample, values, "sample")


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UserError) as caught:
        validate(Sample, {"rate": 2, "count": -1, "nam": "y"}, "sample")
    assert len(str(caught.value).splitlines()) == 3


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Sample().rate = 0.1


def test_trainer_defaults_are_the_shared_protocol():
    trainer = TrainerSettings()
    assert (trainer.optimizer, trainer.lr, trainer.momentum) == ("sgd", 0.01, 0.9)
    assert (trainer.weight_decay, trainer.batch_size, trainer.epochs) == (1e-4, 64, 100)
    assert (trainer.schedule, trainer.lr_step, trainer.lr_gamma) == ("step", 0.7, 0.1)


TOML = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(st.none() | TOML)
def test_a_value_as_typed_is_read_back(value):
    found = parse_value(as_typed(value))
    assert found == value
    assert type(found) is type(value)
