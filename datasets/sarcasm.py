"""Is the tweet sarcastic? Text with a picture, from hashtags and human judgement (real, paired).

The text lists of headacheboy/data-of-multimodal-sarcasm-detection (Cai et al. 2019), one Python
list a line. **The last element is the label**: validation and test carry the hashtag's label and
then the human one, which differ for 87 and 144 tweets. Tweets with a word that gives the answer
away are dropped, as published; their pictures do not exist (datasets.md section 1.5).

The text becomes hashed words, or the word pieces of a tokenizer whose folder lies below
``--weights``: ``tokenizer=bert-base-uncased``, or ``openai/clip-vit-base-patch32`` for CLIP.
Deviation: pictures are cropped from the copy already resized to 224 x 224.
"""

import ast
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmbench.data.words import WORDS
from mmbench.dataset import DatasetInfo, Modality, Task
from mmbench.errors import UserError
from mmbench.native.dataset import (
    NativeConfig,
    NativeDataset,
    Sample,
    first_of,
    read_lines,
    require,
)
from mmbench.native.pictures import image
from mmbench.native.source import Source
from mmbench.native.text import tokens
from mmbench.nets.pixels import IMAGENET_MEAN, IMAGENET_STD
from mmbench.registry import register_dataset
from mmbench.settings import setting

CLASSES = ("not sarcastic", "sarcastic")
GIVEAWAYS = frozenset(
    ("sarcasm", "sarcastic", "reposting", "<url>", "joke", "humour", "humor", "jokes", "irony",
     "ironic", "exgag")
)  # fmt: skip
LISTS = {"train": ("train.txt", 3), "val": ("valid2.txt", 4), "test": ("test2.txt", 4)}
FOLDERS = ("dataset_image", "images")


class SarcasmConfig(NativeConfig):
    """Options of sarcasm."""

    tokenizer: str = setting(
        WORDS, "words: hashed words, needs nothing; else a tokenizer below --weights",
        source="datasets.md section 1.5 names bert-base-uncased", min_length=1,
    )  # fmt: skip
    length: int = setting(64, "words or word pieces kept", source="datasets.md 1.5", ge=1, le=512)
    size: int = setting(224, "height and width of the picture", source="BSS", ge=16, le=512)
    fit: Literal["stretch", "centre"] = setting(
        "stretch", "the whole picture, its aspect not kept; or its middle square, as CLIP does",
        source="AMSS, BSS: stretch",
    )  # fmt: skip


@register_dataset("sarcasm")
class Sarcasm(NativeDataset):
    """Multimodal sarcasm detection: 24,635 tweets with a picture, two classes; needs files."""

    Config = SarcasmConfig
    info = DatasetInfo(
        title="Multimodal sarcasm detection (Cai et al. 2019): tweets with a picture, two classes",
        licence="no licence file; Twitter's terms apply, research use (unverified)",
        source="github.com/headacheboy/data-of-multimodal-sarcasm-detection: the text lists, and "
        "links to the pictures in four parts",
        real="all of it: tweets as posted; train labelled by hashtags, the rest by people",
        layout="""
  ROOT/text/train.txt  ROOT/text/valid2.txt  ROOT/text/test2.txt
  ROOT/dataset_image/<id>.jpg                     or ROOT/images/<id>.jpg""",
        counts="train 19816, val 2410, test 2409, after dropping tweets that give the answer away",
        size="3.7 GB; as much again while preparing",
    )
    published = 24635
    trainer = {"batch_size": 32}
    encoders = {"image": "resnet50", "text": "words"}
    config: SarcasmConfig

    @property
    def task(self) -> Task:
        """Two classes from a picture and a text; accuracy is primary."""
        c = self.config
        picture = Modality("image", "image", (3, c.size, c.size), IMAGENET_MEAN, IMAGENET_STD)
        return Task(
            (picture, Modality("text", "text", (c.length,), vocabulary=c.tokenizer)), CLASSES
        )

    def augmentations(self) -> Mapping[str, str]:
        """Crop at least half of the picture, and mirror it."""
        return {"image": "crop:0.5+flip"}

    def decoders(self) -> Mapping[str, "partial[NDArray[np.generic]]"]:
        """The picture in colour, the text as numbers."""
        c = self.config
        return {
            "image": partial(image, size=c.size, fit=c.fit),
            "text": partial(tokens, tokenizer=c.tokenizer, length=c.length),
        }

    def samples(self, root: Path) -> Sequence[Sample]:
        """List the tweets that do not give the answer away."""
        require(root, self.name, "text", *(f"text/{file}" for file, _ in LISTS.values()))
        folder = first_of(root, FOLDERS)
        if folder is None:
            require(root, self.name, FOLDERS[0])
        found = []
        for split, (name, length) in LISTS.items():
            file = root / "text" / name
            for number, line in read_lines(file):
                key, text, label = _line(f"{file}, line {number}", line, length)
                if not GIVEAWAYS & set(text.split()):
                    sources = {"image": Source(f"{folder}/{key}.jpg"), "text": Source(text=text)}
                    place = f"{name}, line {number}"
                    found.append(Sample(key, label, key, split, sources, place))
        return found


def _line(place: str, line: str, length: int) -> tuple[str, str, int]:
    """Return (id, text, label); the label is the last element."""
    try:
        held = ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as err:
        raise UserError(f"{place}: not a Python list ({err}); restore the published list") from err
    if not isinstance(held, list) or len(held) != length:
        raise UserError(
            f"{place}: a list of {length} is wanted, id, text and label last; found {line[:60]!r}"
        )
    if held[-1] not in (0, 1):
        raise UserError(f"{place}: unknown label {held[-1]!r}; labels are 0 and 1")
    return str(held[0]), str(held[1]), int(held[-1])
