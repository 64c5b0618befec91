"""Augmentation by name: joined parts, numbers, repeatable draws, clear refusals."""

import pytest
import torch

from mmbench.contract.waiting import call_without_waiting
from mmbench.data.augment import AUGMENTATIONS, augment, flip, noise, shift
from mmbench.errors import UserError


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_joined_parts_are_applied_in_order_from_one_stream():
    x = torch.randn(8, 1, 6, 6, generator=draw(5))
    one = draw()
    expected = noise(shift(x, one, 2), one, 0.5)
    assert torch.equal(augment("shift:2+noise:0.5", x, draw()), expected)


def test_shift_moves_by_at_most_its_reach_and_repeats_the_border():
    x = torch.zeros(200, 1, 9, 9)
    x[:, :, 4, 4] = 1
    found = shift(x, draw()).flatten(1).argmax(1)
    moved = {(int(i) // 9 - 4, int(i) % 9 - 4) for i in found}
    assert moved == {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    assert torch.equal(shift(torch.ones(3, 1, 4, 4), draw()), torch.ones(3, 1, 4, 4))


def test_flip_mirrors_about_half_of_the_samples():
    x = torch.arange(4.0).expand(400, 1, 1, 4)
    mirrored = (flip(x, draw())[:, 0, 0, 0] == 3).float().mean().item()
    assert 0.4 < mirrored < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_keeps_shape_and_type(dtype):
    x = torch.zeros(50, 1, 14, 14, dtype=dtype)
    out = augment("noise:0.3", x, draw())
    assert out.dtype == dtype and out.shape == x.shape
    assert out.std().item() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("name", [*AUGMENTATIONS, "each.crop+each.flip"])
def test_no_augmentation_waits_for_the_device(name):
    clips = torch.zeros(2, 3, 4, 8, 8)
    x = clips[:, :, 0] if name == "shift" else clips
    call_without_waiting(augment, name, x, draw())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shfit", "unknown augmentation 'shfit'; did you mean 'shift'"),
        ("shift+nose", "did you mean 'noise'"),
        ("noise:loud", "'loud' is not a number"),
        ("", "unknown augmentation ''"),
    ],
)
def test_unknown_names_and_numbers_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        augment(name, torch.zeros(2, 1, 4, 4), draw())
