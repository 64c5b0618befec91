"""Encoders take the kinds they say, fold frames as the released code pools, and keep one width."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from mmbench.dataset import Modality
from mmbench.errors import UserError
from mmbench.nets.encoders import build_encoders, encoder_names, initialise
from mmbench.registry import ENCODERS

SPECTROGRAM = Modality("audio", "spectrogram", (1, 65, 80))
FRAMES = Modality("visual", "frames", (3, 2, 48, 48))
VECTOR = Modality("gaze", "vector", (5,))


def test_a_modality_has_no_name_that_torch_could_not_keep_a_module_under():
    # In a process of its own: other libraries may give torch's modules more names.
    asked = "from torch import nn; print(*dir(nn.ModuleDict()))"
    found = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    )
    own = [name for name in found.stdout.split() if not name.startswith("__")]
    for name in ("fused", "a.b", "my text", "_x", "a__b", *own):
        with pytest.raises(UserError, match="a modality cannot be called"):
            Modality(name, "vector", (5,))


def encoder(name, modality, seed=0):
    torch.manual_seed(seed)
    return ENCODERS.load(name)(modality)


@pytest.mark.parametrize("modality", [SPECTROGRAM, FRAMES, Modality("x", "image", (3, 40, 40))])
def test_resnet18_maps_every_kind_to_512(modality):
    net = encoder("resnet18", modality)
    z = net(torch.randn(2, *modality.shape))
    assert z.shape == (2, net.width) == (2, 512)
    assert net.net.conv1.in_channels == modality.shape[0]


def test_frames_are_averaged_over_their_features():
    net, x = encoder("resnet18", FRAMES).eval(), torch.randn(2, *FRAMES.shape)
    with torch.no_grad():
        each = [net.net(x[:, :, k]) for k in range(2)]
        torch.testing.assert_close(net(x), (each[0] + each[1]) / 2, atol=1e-5, rtol=1e-5)


def test_one_frame_is_an_image():
    one = Modality("visual", "frames", (3, 1, 48, 48))
    net, x = encoder("resnet18", one).eval(), torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(net(x[:, :, None]), net(x))


def test_resnet18_is_initialised_as_the_specification_says():
    net = encoder("resnet18", SPECTROGRAM)
    conv = net.net.layer4[0].conv1
    assert float(conv.weight.std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)
    scales = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
    assert float(scales.mean()) == pytest.approx(1, abs=2e-3)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.1)
    assert all((m.bias == 0).all() for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_widths_that_differ_are_projected_to_the_largest():
    modalities = (FRAMES, VECTOR)
    built = build_encoders(modalities, encoder_names(modalities, {}))
    assert {int(e.width) for e in built.values()} == {512}
    assert isinstance(built["gaze"].projection, nn.Linear)
    assert built["gaze"](torch.randn(3, 5)).shape == (3, 512)


def test_equal_widths_are_left_alone():
    built = build_encoders((SPECTROGRAM, VECTOR), {"audio": "conv", "gaze": "mlp"})
    assert {type(e).__name__ for e in built.values()} == {"SmallConv", "MLP"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"smell": "mlp"}, "no modality 'smell' to encode; there are gaze, visual"),
        ({"gaze": "resnet18"}, "encoder 'resnet18' takes"),
        ({"gaze": "resnet1"}, r"unknown encoder 'resnet1'.*did you mean 'resnet18'"),
    ],
)
def test_unsuitable_choices_are_refused(chosen, message):
    with pytest.raises(UserError, match=message):
        encoder_names((FRAMES, VECTOR), chosen)


class Named(nn.Module):
    """An encoder of several networks that has no variants."""

    kinds, named, width = ("vector",), True, 1

    def __init__(self, modality, variant=""):
        super().__init__()
        self.variant = variant


@pytest.mark.parametrize("typed", ["mine@model", "mine@group/model:2"])
def test_a_model_may_be_chosen_of_an_encoder_without_variants(typed, monkeypatch):
    monkeypatch.setattr(ENCODERS, "load", {"mine": Named}.__getitem__)
    chosen = encoder_names((VECTOR,), {"gaze": typed})
    assert chosen == {"gaze": typed}
    assert build_encoders((VECTOR,), chosen)["gaze"].variant == typed.removeprefix("mine")


@pytest.mark.parametrize("scheme", ["xavier", "kaiming"])
def test_initialisation_schemes_zero_the_biases(scheme):
    net = encoder("mlp", VECTOR)
    initialise(net, scheme)
    layer = net.net[2]
    fan = {"xavier": 2 / 128, "kaiming": 2 / 64}[scheme]
    assert float(layer.weight.detach().std()) == pytest.approx(fan**0.5, rel=0.05)
    assert (layer.bias == 0).all()


def test_a_kind_without_an_encoder_is_named():
    with pytest.raises(UserError, match="modality 'left' is of the kind 'vektor', which has no"):
        encoder_names((Modality("left", "vektor", (32,)),), {})
