"""A dataset made from the user's table."""

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import create_model

from mmbench.cell import digest
from mmbench.data.decoding import Decoded, decode_all, gather
from mmbench.data.leftout import refuse_or_tell
from mmbench.data.media import UnreadableError
from mmbench.data.splitting import carve
from mmbench.data.words import WORDS
from mmbench.dataset import (
    SPLITS,
    Dataset,
    DatasetConfig,
    DatasetInfo,
    Kind,
    Modality,
    SplitArrays,
    Task,
)
from mmbench.errors import UserError
from mmbench.own.contents import file_hashes
from mmbench.own.decoders import decode, frames_of
from mmbench.own.table import IN_TABLE, OwnKind, Row, Table, read_table
from mmbench.registry import DATASETS
from mmbench.settings import setting, validate
from mmbench.store import write_atomic

ROWS = 1024  # standardised at once
logger = logging.getLogger(__name__)


class OwnConfig(DatasetConfig):
    """How files become arrays, and how the splits are made if the table does not say."""

    content: str = setting(
        "", "hash of the table, its kinds and its files", source="set by prepare"
    )
    rate: int = setting(16000, "audio: samples per second", source="mmbench", ge=4000, le=96000)
    seconds: float = setting(
        4.0, "audio: length; cut, or padded with silence", source="mmbench", gt=0, le=600
    )
    mels: int = setting(64, "audio: bands of the spectrogram", source="mmbench", ge=8, le=256)
    image_size: int = setting(
        64, "image, video: height and width in pixels", source="mmbench", ge=8, le=1024
    )
    frames: int = setting(4, "video: pictures per clip", source="mmbench", ge=1, le=64)
    words: int = setting(64, "text: words or word pieces kept", source="mmbench", ge=1, le=4096)
    tokenizer: str = setting(
        WORDS, "text: words: hashed words, needs nothing; else a tokenizer below --weights",
        source="mmbench", min_length=1,
    )  # fmt: skip
    standardise: bool = setting(
        True, "vectors: each number to mean 0 and deviation 1 over train", source="mmbench"
    )
    unreadable: Literal["error", "skip"] = setting(
        "error", "a file that cannot be decoded: stop, or leave its row out", source="mmbench"
    )
    val: float = setting(
        0.1, "share of the training rows for validation, without a split", source="mmbench",
        gt=0, le=0.5,
    )  # fmt: skip
    test: float = setting(
        0.2, "share of all rows for the test, without a split", source="mmbench", gt=0, le=0.5
    )
    split_seed: int = setting(0, "of the draw of the splits", source="mmbench", ge=0)


@dataclass(frozen=True)
class Definition:
    """What is kept about a user's table, so that its name works from then on.

    Attributes:
        table: absolute path.
        shapes: of the ``array`` modalities.
        options: what ``--set`` said when it was prepared.
    """

    name: str
    table: str
    kinds: Mapping[str, OwnKind]
    shapes: Mapping[str, tuple[int, ...]]
    classes: tuple[str, ...]
    content: str
    options: Mapping[str, Any]


class OwnTable(Dataset):
    """A dataset made from the user's table."""

    definition: ClassVar[Definition]
    rooted = False
    resumable = True
    trainer: ClassVar[Mapping[str, object]] = {"epochs": 30}
    config: OwnConfig

    @property
    def task(self) -> Task:
        """The table's classes and columns."""
        own = self.definition
        parts = (self._modality(name, kind) for name, kind in own.kinds.items())
        return Task(tuple(parts), own.classes)

    def _modality(self, name: str, kind: OwnKind) -> Modality:
        c = self.config
        if kind == "array":
            shape = self.definition.shapes[name]
            return Modality(name, _array_kind(shape), shape)
        kinds: dict[OwnKind, tuple[Kind, tuple[int, ...]]] = {
            "audio": ("spectrogram", (1, c.mels, frames_of(c))),
            "image": ("image", (3, c.image_size, c.image_size)),
            "video": ("frames", (3, c.frames, c.image_size, c.image_size)),
            "number": ("vector", (1,)),
            "text": ("text", (c.words,)),
        }
        vocabulary = c.tokenizer if kind == "text" else WORDS
        return Modality(name, *kinds[kind], vocabulary=vocabulary)

    def build(self, root: Path | None, scratch: Path) -> Mapping[str, SplitArrays]:
        """Decode the table's files in parallel; started again, it goes on where it stopped.

        Raises:
            UserError: if the table changed, files cannot be decoded (unless ``unreadable=skip``),
                or a class is absent from train.
        """
        own = self.definition
        table = read_table(Path(own.table), columns=tuple(own.kinds), kinds=own.kinds)
        hashes = hashes_of(table, scratch.parent)
        if content_hash(table, hashes) != self.config.content:
            raise UserError(
                f"{own.table} or its files changed since it was prepared; type: "
                f"mmbench prepare {own.table} --name {own.name}"
            )
        label = np.array([own.classes.index(row.label) for row in table.rows], dtype=np.int64)
        everything = np.arange(len(table.rows))
        self._check_splits(table, label, self._splits(table, everything, label))  # before decoding
        shapes = {m.name: m.shape for m in self.task.modalities}
        plain = OwnConfig(**self.config.model_dump())  # its own class is made here: not picklable
        decoded = decode_all(
            table.rows,
            [self._key(row, hashes) for row in table.rows],
            partial(_decode, own.kinds, plain, shapes),
            scratch / "shards",
        )
        left_out = self._left_out(table, decoded, scratch)
        rows = np.array([i for i in everything if i not in decoded.unreadable], dtype=np.int64)
        label = label[rows]
        split = self._splits(table, rows, label)
        self._check_splits(table, label, split)
        inputs = gather(decoded, rows, split, scratch)
        notes: dict[str, Any] = {
            "source": own.table,
            "listed": len(table.rows),
            "left_out": left_out,
        }
        if self.config.standardise:
            notes["standardised"] = _standardise(inputs)
        (scratch / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        return {
            name: SplitArrays(
                inputs=inputs[name],
                label=label[split == name],
                ids=tuple(table.rows[i].id for i in rows[split == name]),
                groups=tuple(table.rows[i].group for i in rows[split == name]),
            )
            for name in SPLITS
        }

    def _key(self, row: Row, hashes: Mapping[str, str]) -> str:
        """Return a text that changes with whatever changes the row's arrays."""
        options = self.config.model_dump(
            mode="json", exclude={"content", "unreadable", "standardise", "val", "test",
                                  "split_seed"},
        )  # fmt: skip
        return digest(
            [_facts(row, self.definition.kinds, hashes), dict(self.definition.kinds), options]
        )

    def _left_out(self, table: Table, decoded: Decoded, scratch: Path) -> list[str]:
        """Return the rows that cannot be read; refuse them unless they are to be left out."""
        found = [
            f"{table.rows[i].place}, "
            + "; ".join(f"column {m}: {what}" for m, what in mistakes.items())
            for i, mistakes in sorted(decoded.unreadable.items())
        ]
        refuse_or_tell(
            found,
            f"{len(found)} of {len(table.rows)} rows cannot be used",
            skip=self.config.unreadable == "skip",
            advice="mend or remove them and type the command again (what was decoded is kept), or "
            "leave them out with --set unreadable=skip",
            scratch=scratch,
        )
        return found

    def _splits(
        self, table: Table, rows: NDArray[np.int64], label: NDArray[np.int64]
    ) -> NDArray[np.str_]:
        """Return each row's split: the table's, with what it lacks carved out."""
        given = {row.split for row in table.rows}
        split = np.array([table.rows[i].split or "train" for i in rows], dtype="<U5")
        groups = np.array([table.rows[i].group for i in rows])
        for name, share in (("test", self.config.test), ("val", self.config.val)):
            if name not in given:
                train = np.flatnonzero(split == "train")
                kept = groups[train].tolist() if table.grouped else None
                names = self.definition.classes
                split[train[carve(label[train], kept, share, self.config.split_seed, names)]] = name
        return split

    def _check_splits(
        self, table: Table, label: NDArray[np.int64], split: NDArray[np.str_]
    ) -> None:
        own = self.definition
        for name in SPLITS:
            if name not in split:
                raise UserError(
                    f"{own.table}: the split {name!r} has no usable row; give some, or leave the "
                    "column 'split' out"
                )
        absent = [c for i, c in enumerate(own.classes) if not (label[split == "train"] == i).any()]
        if absent:
            where = next(row.place for row in table.rows if row.label == absent[0])
            raise UserError(
                f"{own.table}: no training row has the label {absent[0]!r}"
                + (f" (nor {', '.join(map(repr, absent[1:]))})" if absent[1:] else "")
                + f", which {where} has; give some, or remove the rows with that label"
            )


def _array_kind(shape: tuple[int, ...]) -> Kind:
    return "vector" if len(shape) == 1 else "spectrogram" if shape[0] == 1 else "image"


def _facts(
    row: Row, kinds: Mapping[str, OwnKind], hashes: Mapping[str, str]
) -> list[Any]:  # Any: JSON values
    return [[m, v if kinds[m] in IN_TABLE else hashes[v]] for m, v in row.values.items()]


def hashes_of(table: Table, folder: Path) -> dict[str, str]:
    """Return the hash of every file that a table names; ``folder`` holds what is known of them."""
    named = [
        v for row in table.rows for m, v in row.values.items() if table.kinds[m] not in IN_TABLE
    ]
    return file_hashes(named, folder / "files.json")


def content_hash(table: Table, hashes: Mapping[str, str]) -> str:
    """Return the hash of everything in the table and its files, wherever they lie."""
    rows = [
        [row.id, row.label, row.split, row.group, _facts(row, table.kinds, hashes)]
        for row in table.rows
    ]
    return digest([dict(table.kinds), rows])


def define(table: Table, name: str, options: Mapping[str, Any], cache: Path) -> type[OwnTable]:
    """Make the dataset's class of a table and register it.

    Args:
        table: checked.
        name: as ``--datasets`` will call it.
        options: of ``OwnConfig``, as the user set them.
        cache: the folder of all caches.

    Raises:
        UserError: if the name is taken or not usable, an option is not allowed, or the first
            file of an array column cannot be read (any, with ``unreadable=skip``).
    """
    skip = options.get("unreadable") == "skip"
    shapes = {m: _probe(table.rows, m, skip) for m, k in table.kinds.items() if k == "array"}
    return make(
        Definition(
            name, str(table.file.absolute()), table.kinds, shapes, table.classes,
            content_hash(table, hashes_of(table, cache / name)), dict(options),
        )
    )  # fmt: skip


def _probe(rows: Sequence[Row], column: str, skip: bool) -> tuple[int, ...]:
    """Return the shape of the column's first array, or with ``skip`` of the first readable one."""
    for row in rows:
        try:
            return decode("array", row.values[column], OwnConfig()).shape
        except UnreadableError as err:
            if not skip:
                raise UserError(
                    f"{row.place}, column {column}: {row.values[column]}: {err}"
                ) from err
    raise UserError(f"no file of the column {column!r} can be read ({rows[0].place} and on)")


def make(definition: Definition) -> type[OwnTable]:
    """Make and register the class of a definition; its config's defaults are those prepared."""
    defaults = {**definition.options, "content": definition.content}
    validate(OwnConfig, defaults, definition.name)
    fields: dict[str, Any] = {}
    for key, value in defaults.items():
        field = copy.deepcopy(OwnConfig.model_fields[key])
        field.default = value
        fields[key] = (field.annotation, field)
    config = create_model("OwnTableConfig", __base__=OwnConfig, **fields)
    kinds = ", ".join(f"{m} ({kind})" for m, kind in definition.kinds.items())
    cls = type(
        "OwnTableOf",
        (OwnTable,),
        {
            "__doc__": f"From {Path(definition.table).name}: {kinds}; "
            f"{len(definition.classes)} classes.",
            "__module__": __name__,
            "name": definition.name,
            "definition": definition,
            "Config": config,
            "info": DatasetInfo(
                title=f"your own table, {kinds}",
                licence="yours",
                source=definition.table,
                real="whatever the table's files are",
            ),
        },
    )
    DATASETS.register(definition.name, cls, "own table")
    return cls


def save(definition: Definition, cache: Path) -> None:
    """Keep a definition beside its caches."""
    file = definition_file(definition.name, cache)
    write_atomic(file, json.dumps(asdict(definition), indent=1).encode())


def definition_file(name: str, cache: Path) -> Path:
    """Return where the definition of ``name`` is kept."""
    return cache / name / "own.json"


def read_definition(file: Path) -> Definition:
    """Read a definition.

    Raises:
        UserError: if it is damaged; says how to make it again.
    """
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        held["shapes"] = {m: tuple(shape) for m, shape in held["shapes"].items()}
        held["classes"] = tuple(held["classes"])
        return Definition(**held)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise UserError(
            f"cannot read {file} ({type(err).__name__}: {err}); remove it and prepare the table "
            "again: mmbench prepare TABLE"
        ) from err


def own_table(name: str, cache: Path) -> str | None:
    """Return the table that ``name`` was prepared from, if it was and that can be read."""
    with suppress(UserError):
        return read_definition(definition_file(name, cache)).table
    return None


def discover(cache: Path) -> None:
    """Register the user's tables that were prepared into ``cache``."""
    known = set(DATASETS.names())
    try:
        files = sorted(cache.glob("*/own.json"))
    except PermissionError:  # whoever needs the cache itself says so
        return
    for file in files:
        try:
            definition = read_definition(file)
            if definition.name not in known:
                make(definition)
        except UserError as err:  # one damaged table must not stop what does not use it
            logger.warning("left out: %s", err)


def _decode(
    kinds: Mapping[str, OwnKind],
    config: OwnConfig,
    shapes: Mapping[str, tuple[int, ...]],
    row: Row,
) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """Return one row's arrays, and what is wrong with those that could not be made."""
    arrays, mistakes = {}, {}
    for m, kind in kinds.items():
        try:
            x = decode(kind, row.values[m], config)
            if x.shape != shapes[m]:
                raise UnreadableError(f"its shape is {x.shape}, the first row has {shapes[m]}")
            arrays[m] = x
        except UnreadableError as err:
            mistakes[m] = f"{row.values[m]}: {err}"
    return arrays, mistakes


def _standardise(inputs: Mapping[str, Mapping[str, NDArray[np.generic]]]) -> dict[str, Any]:
    """Standardise every vector modality in place by its training rows; return the moments."""
    moments = {}
    for m, train in inputs["train"].items():
        if train.ndim == 2 and train.dtype == np.float32:
            mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
            std = np.where(std > 0, std, 1.0)
            for arrays in inputs.values():
                for begin in range(0, len(arrays[m]), ROWS):
                    part = slice(begin, begin + ROWS)
                    arrays[m][part] = (arrays[m][part] - mean) / std
            moments[m] = {"mean": mean.tolist(), "std": std.tolist()}
    return moments
