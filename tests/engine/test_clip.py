"""CLIP: frozen features are computed once and kept, adapters train on them; or it is tuned."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmbench.data.features import frozen_of, with_features
from mmbench.dataset import Modality, Prepared, SplitArrays, Task
from mmbench.errors import UserError
from mmbench.native.source import Source
from mmbench.native.text import tokens
from mmbench.nets.clip import MEAN, STD, Tower
from mmbench.nets.encoders import build_encoders, encoder_names, initialise
from mmbench.nets.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels
from mmbench.testing.models import PICTURE, PIECES, WIDTH, tiny_clip

CPU = torch.device("cpu")
SEEN = Modality("seen", "image", (3, 24, 24), IMAGENET_MEAN, IMAGENET_STD)
TOLD = Modality("told", "text", (PIECES,), vocabulary="some/clip")
CHOSEN = {"seen": "clip:adapter@some/clip", "told": "clip"}
SAID = ("rain!", "rain", "so fine", "a")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("MMBENCH_ALLOW_DOWNLOAD", raising=False)
    tiny_clip(tmp_path / "weights" / "some" / "clip")
    return tmp_path / "weights"


def samples(count):
    rng = np.random.default_rng(count)
    told = [tokens(Source(text=SAID[i % 4]), tokenizer="some/clip", length=PIECES)
            for i in range(count)]  # fmt: skip
    seen = rng.integers(0, 256, (count, 3, 24, 24), np.uint8)
    names = tuple(f"{count}-{i}" for i in range(count))
    label = np.arange(count) % 2
    return SplitArrays({"seen": seen, "told": np.stack(told)}, label, names, names)


@pytest.fixture
def prepared(weights):
    splits = {"train": samples(70), "val": samples(6), "test": samples(8)}
    return Prepared(Task((SEEN, TOLD), ("a", "b")), splits, "s", "d", {"seen": "flip"})


def names(chosen):
    return encoder_names((SEEN, TOLD), chosen)


def build(name, modality):
    torch.manual_seed(0)
    (net,) = build_encoders((modality,), encoder_names((modality,), {modality.name: name})).values()
    return net


def test_features_are_what_transformers_computes(prepared, weights, tmp_path):
    from transformers import CLIPModel, CLIPTextModelWithProjection

    made = with_features(prepared, names(CHOSEN), tmp_path / "kept", CPU)
    assert {m.name: (m.kind, m.shape) for m in made.task.modalities} == {
        "seen": ("vector", (WIDTH,)), "told": ("vector", (WIDTH,)),
    }  # fmt: skip
    model = CLIPModel.from_pretrained(weights / "some" / "clip").eval()
    raw = torch.from_numpy(prepared.splits["val"].inputs["seen"]) / 255
    larger = torch.nn.functional.interpolate(raw, (PICTURE,) * 2, mode="bicubic", antialias=True)
    pixels = (larger - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    np.testing.assert_allclose(made.splits["val"].inputs["seen"], expected, rtol=1e-3, atol=1e-4)
    text = CLIPTextModelWithProjection.from_pretrained(weights / "some" / "clip").eval()
    pieces = prepared.splits["val"].inputs["told"][0]
    unpadded = torch.tensor([[i for i in pieces.tolist() if i]])  # "!" is not the first piece here
    with torch.no_grad():
        (expected,) = text(input_ids=unpadded).text_embeds
    np.testing.assert_allclose(made.splits["val"].inputs["told"][0], expected, rtol=1e-3, atol=1e-4)


def test_features_are_kept_memory_mapped_and_not_augmented(prepared, tmp_path, monkeypatch):
    first = with_features(prepared, names(CHOSEN), tmp_path / "kept", CPU)
    assert isinstance(first.splits["train"].inputs["seen"], np.memmap)
    assert first.splits["train"].inputs["told"].shape == (70, WIDTH)
    assert first.augmentations == {} and first.data_hash != prepared.data_hash

    def never(*_):
        raise AssertionError("computed a second time")

    monkeypatch.setattr(Tower, "forward", never)
    again = with_features(prepared, names(CHOSEN), tmp_path / "kept", CPU)
    assert again.data_hash == first.data_hash
    np.testing.assert_array_equal(
        again.splits["test"].inputs["seen"], first.splits["test"].inputs["seen"]
    )


def test_other_weights_data_or_inputs_are_computed_anew(prepared, weights, tmp_path):
    kept = tmp_path / "kept"

    def folders():
        return {p.name for p in kept.iterdir() if not p.name.startswith(".")}

    with_features(prepared, names(CHOSEN), kept, CPU)
    assert len(folders()) == 2
    with_features(prepared, names(CHOSEN | {"told": "clip:features-raw"}), kept, CPU)
    assert len(folders()) == 2  # what is made of the features does not change them
    tiny_clip(weights / "some" / "clip", seed=1)
    with_features(prepared, names(CHOSEN), kept, CPU)
    assert len(folders()) == 4
    other = Prepared(prepared.task, prepared.splits, "s", "other")
    with_features(other, names(CHOSEN), kept, CPU)
    assert len(folders()) == 6


def test_damaged_features_are_computed_again(prepared, tmp_path):
    kept = tmp_path / "kept"
    first = with_features(prepared, names(CHOSEN), kept, CPU)
    expected = np.array(first.splits["test"].inputs["seen"])
    for file in kept.glob("*/test.npy"):
        file.write_bytes(file.read_bytes()[:-8] + bytes(8))
    again = with_features(prepared, names(CHOSEN), kept, CPU)
    np.testing.assert_array_equal(again.splits["test"].inputs["seen"], expected)


def test_an_adapter_trains_on_normalised_features_and_features_alone_train_nothing():
    seen = Modality("seen", "vector", (WIDTH,))
    z = torch.randn(4, WIDTH)
    adapter, plain, raw = (
        build_encoders((seen,), {"seen": f"clip:{how}"})["seen"]
        for how in ("adapter", "features", "features-raw")
    )
    assert [p.shape for p in adapter.parameters()] == [(WIDTH, WIDTH), (WIDTH,)] * 2
    torch.testing.assert_close(adapter(5 * z), adapter(z))
    torch.testing.assert_close(plain(z).norm(dim=1), torch.ones(4))
    torch.testing.assert_close(raw(z), z)
    assert not list(plain.parameters())
    initialise(adapter, "xavier")
    assert (adapter.net[0].bias == 0).all()


@pytest.mark.parametrize("modality", [SEEN, TOLD])
def test_fine_tuning_reaches_every_layer(weights, modality):
    name = "clip:finetune" + ("@some/clip" if modality is SEEN else "")
    assert frozen_of(modality, name) is None
    net = build(name, modality)
    x = torch.from_numpy(samples(3).inputs[modality.name])
    net(x if modality is TOLD else x / 255).square().sum().backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # Keys' biases do not change attention; unused word pieces and places get no gradient.
    assert all("k_proj.bias" in n for n in idle), idle
    before = {k: v.clone() for k, v in net.state_dict().items()}
    initialise(net, "xavier")  # what was pretrained is kept
    assert all((before[k] == v).all() for k, v in net.state_dict().items())


def test_frames_are_averaged(weights):
    frames = Modality("film", "frames", (3, 2, 24, 24))
    tower = Tower(frames, "some/clip").eval()
    x = torch.rand(2, 3, 2, 24, 24)
    still = Tower(Modality("f", "image", (3, 24, 24)), "some/clip").eval()
    with torch.no_grad():
        torch.testing.assert_close(tower(x), (still(x[:, :, 0]) + still(x[:, :, 1])) / 2)


def test_pixels_undo_what_the_loader_did():
    x = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(Pixels(SEEN, MEAN, STD)((x - mean) / std), expected)
    same = Pixels(SEEN, IMAGENET_MEAN, IMAGENET_STD)
    assert same(x) is x


def test_what_is_behind_the_end_mark_does_not_matter(weights):
    tower = Tower(TOLD, "some/clip").eval()
    x = torch.from_numpy(tokens(Source(text="rain!"), tokenizer="some/clip", length=PIECES))
    end = int((x > 0).nonzero().max())
    other = x.clone()
    other[end + 1 :] = x[end]
    with torch.no_grad():
        torch.testing.assert_close(tower(x[None]), tower(other[None]))
    cut = tokens(Source(text="rain " * 40), tokenizer="some/clip", length=6)
    assert len(cut) == 6 and cut[-1] == x[end]  # a cut text has its end mark


@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        ("clip", SEEN, r"no folder .*openai/clip-vit-base-patch32 .*--weights DIR.*--allow-down"),
        ("clip:finetune@no/clip", SEEN, "no folder .*no/clip"),
        ("clip", Modality("t", "text", (8,)), "hashed words.*tokenizer=openai/clip-vit-base"),
        ("clip@other/clip", TOLD, "word pieces of 'some/clip'.*tokenizer=other/clip"),
        ("clip:adaptor", SEEN, "no variant 'adaptor'; did you mean 'adapter'"),
        ("clip:adapter@", SEEN, "no model behind @"),
        ("resnet18@x", SEEN, "'resnet18' is one network"),
        ("clip:finetune@some/clip", Modality("g", "image", (1, 8, 8)), "takes 3 channels"),
        ("clip:finetune", Modality("t", "text", (PIECES + 1,), vocabulary="some/clip"),
         f"reads {PIECES} word pieces and 't' has {PIECES + 1}.*length={PIECES}"),
        ("bert", TOLD, "'bert' cannot read 'some/clip', a clip"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_says_why(weights, name, modality, message):
    with pytest.raises(UserError, match=message):
        chosen = encoder_names((modality,), {modality.name: name})[modality.name]
        if frozen_of(modality, chosen) is None:
            build(name, modality)


def test_a_folder_of_another_kind_or_without_weights_is_refused(weights):
    from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel

    BertModel(BertConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=8)).save_pretrained(weights / "bert")  # fmt: skip
    with pytest.raises(UserError, match=r"'bert' is a bert, not a CLIP.*behind @"):
        build("clip:finetune@bert", SEEN)
    folder = weights / "some" / "clip"
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load the pretrained 'some/clip'"):
        build("clip:finetune@some/clip", SEEN)
    small = CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, image_size=32, patch_size=8)  # fmt: skip
    config = (folder / "config.json").read_text()
    CLIPVisionModel(small).save_pretrained(folder)  # one layer of two
    (folder / "config.json").write_text(config)
    with pytest.raises(UserError, match="lacks weights of a CLIPVisionModelWithProjection"):
        build("clip:finetune@some/clip", SEEN)


def test_pictures_may_keep_their_aspect(tmp_path):
    from mmbench.native.pictures import image

    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "w.png")
    source = Source(str(tmp_path / "w.png"))
    assert (image(source, size=10, fit="centre")[:, :, 1:-1] == 255).all()
    assert image(source, size=30)[0, 15, [2, 15, 27]].tolist() == [0, 255, 0]
