"""Video nets and pretrained encoders: weights come from a folder, never unasked from elsewhere."""

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from mmbench.dataset import Modality
from mmbench.errors import UserError
from mmbench.native.source import Source
from mmbench.native.text import tokens
from mmbench.nets.encoders import build_encoders, encoder_names, initialise
from mmbench.registry import ENCODERS

RGB = Modality("rgb", "video", (3, 16, 32, 32))
DEPTH = Modality("depth", "video", (1, 16, 32, 32))
TEXT = Modality("text", "text", (12,), vocabulary="tiny")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.delenv("MMBENCH_ALLOW_DOWNLOAD", raising=False)
    return tmp_path


@pytest.fixture
def tiny(weights):
    """A BERT of two layers and its tokenizer, made here."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "so", "fine", "##r", "rain"]
    (weights / "vocab.txt").write_text("\n".join(words))
    folder = weights / "tiny"
    BertTokenizerFast(str(weights / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=2,
                        num_attention_heads=2, intermediate_size=32)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def build(name, modality):
    modalities = (modality,)
    torch.manual_seed(0)
    return build_encoders(modalities, encoder_names(modalities, {modality.name: name}))[
        modality.name
    ]


@pytest.mark.parametrize("modality", [RGB, DEPTH])
@pytest.mark.parametrize("name", ["i3d", "conv3d"])
def test_video_encoders_take_clips_of_any_length(name, modality):
    net = build(name, modality).eval()
    channels = modality.shape[0]
    with torch.no_grad():
        for length in (16, 20):
            assert net(torch.rand(2, channels, length, 32, 32)).shape == (2, net.width)


def test_i3d_has_the_released_sizes():
    net = build("i3d", RGB)
    # Inception-v1 inflated, without its classifier: 12.3 million numbers.
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(12.29e6, rel=0.005)
    with torch.no_grad():
        assert net.eval().net(torch.rand(1, 3, 16, 32, 32)).shape == (1, 1024, 2, 1, 1)


def test_i3d_reads_released_weights_and_leaves_the_first_layer_of_depth_random(weights):
    state = build("i3d", RGB).net.state_dict()
    released = {k: torch.full_like(v, 0.5) for k, v in state.items()}
    released["logits.conv3d.weight"] = torch.zeros(400, 1024, 1, 1, 1)
    torch.save(released, weights / "rgb_imagenet.pt")
    rgb, depth = build("i3d:kinetics", RGB), build("i3d:kinetics", DEPTH)
    assert all((v == 0.5).all() for v in rgb.net.state_dict().values() if v.dim())
    assert (depth.net.Mixed_5c.b0.conv3d.weight == 0.5).all()
    assert not (depth.net.Conv3d_1a_7x7.conv3d.weight == 0.5).any()


def test_weights_that_are_not_there_or_do_not_fit_are_refused(weights):
    with pytest.raises(UserError, match=r"no file .*rgb_imagenet.pt.*--weights DIR.*--allow-down"):
        build("i3d:kinetics", RGB)
    torch.save({"net.weight": torch.zeros(1)}, weights / "rgb_imagenet.pt")
    with pytest.raises(UserError, match=r"rgb_imagenet.pt do not fit this encoder"):
        build("i3d:kinetics", RGB)
    (weights / "rgb_imagenet.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot read the weights"):
        build("i3d:kinetics", RGB)
    with pytest.raises(UserError, match=r"no folder .*tiny with the pretrained 'tiny'"):
        build("bert", TEXT)


def test_imagenet_weights_are_read_and_kept(weights):
    torch.manual_seed(3)
    state = resnet18(weights=None).state_dict()
    torch.save(state, weights / "resnet18-f37072fd.pth")
    net = build("resnet18:imagenet", Modality("image", "image", (3, 32, 32)))
    initialise(net, "xavier")
    torch.testing.assert_close(net.net.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    torch.testing.assert_close(net.net.conv1.weight, state["conv1.weight"])


def test_an_unknown_variant_is_refused():
    with pytest.raises(UserError, match="no variant 'imagnet'; did you mean 'imagenet'"):
        encoder_names((RGB, Modality("i", "image", (3, 8, 8))), {"i": "resnet50:imagnet"})
    with pytest.raises(UserError, match="there are none"):
        encoder_names((RGB,), {"rgb": "conv3d:kinetics"})


def test_resnet50_maps_pictures_to_2048():
    net = build("resnet50", Modality("i", "image", (3, 32, 32))).eval()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, net.width) == (2, 2048)


def test_bert_reads_word_pieces_and_ignores_padding(tiny):
    pieces = np.stack([tokens(Source(text=t), tokenizer="tiny", length=12)
                       for t in ("so finer rain", "Rain")])  # fmt: skip
    assert pieces.dtype == np.int32 and pieces.shape == (2, 12)
    assert pieces[0].tolist() == [2, 5, 6, 7, 8, 3, 0, 0, 0, 0, 0, 0]
    net = build("bert", TEXT).eval()
    x = torch.from_numpy(pieces)
    with torch.no_grad():
        z = net(x)
        assert z.shape == (2, 16) == (2, net.width)
        torch.testing.assert_close(net(x[:, :6]), z)  # the rest is padding
    words = ENCODERS.load("words")(TEXT)
    assert words(x).shape == (2, 64)


def test_bert_refuses_hashed_words():
    with pytest.raises(UserError, match=r"holds hashed words.*tokenizer=bert-base-uncased"):
        build("bert", Modality("text", "text", (12,)))
