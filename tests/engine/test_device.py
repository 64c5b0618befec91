"""A processor is named finely enough to tell one generation from another."""

import pytest

from mmbench.training import device

EPYC = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n" \
    "model name\t: AMD EPYC\nstepping\t: 1\n\nprocessor\t: 1\nmodel\t\t: 99\n"  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (EPYC, "AMD EPYC (family 25, model 17)"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n", ""),
        ("processor\t: 0\nmodel name\t: ARMv7 Processor\n", "ARMv7 Processor"),
        ("", ""),
    ],
)
def test_a_processor_has_its_family_and_model(text, name, tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert device._processor(file) == name


def test_a_system_that_lists_no_processors_names_none(tmp_path):
    assert device._processor(tmp_path / "cpuinfo") == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16 sse amx_bf16\n\nprocessor\t: 1\n",
         "amx_bf16, avx512_bf16"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", "bf16"),
        ("processor\t: 0\nflags\t\t: fpu avx2\n", ""),
    ],
)  # fmt: skip
def test_instructions_for_bf16_are_those_that_the_first_processor_lists(text, found, tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert device.bf16_instructions(file) == found


def test_a_system_that_lists_no_processors_lists_no_instructions(tmp_path):
    assert device.bf16_instructions(tmp_path / "cpuinfo") == ""
