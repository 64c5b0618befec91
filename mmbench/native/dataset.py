"""What datasets that are read from their published files have in common."""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mmbench.cell import digest
from mmbench.data.decoding import Decoded, decode_all, gather
from mmbench.data.leftout import refuse_or_tell
from mmbench.data.media import UnreadableError, explained, refuse_empty
from mmbench.dataset import SPLITS, Dataset, DatasetConfig, SplitArrays
from mmbench.errors import UserError
from mmbench.native.source import Source
from mmbench.settings import setting

ENTRIES = 8  # of a folder, named in a message
Decoder = Callable[..., NDArray[np.generic]]


class NativeConfig(DatasetConfig):
    """What to do about samples that cannot be had."""

    missing: Literal["error", "skip"] = setting(
        "error", "a listed sample whose file is not there: stop, or leave it out", source="mmbench"
    )
    unreadable: Literal["error", "skip"] = setting(
        "error", "a file that cannot be decoded: stop, or leave its sample out", source="mmbench"
    )


@dataclass(frozen=True)
class Sample:
    """One sample before it is decoded.

    Attributes:
        id: unique over the dataset.
        label: index of the class.
        group: speaker, subject or source, used to look for leaks.
        split: ``train``, ``val`` or ``test``.
        sources: per modality.
        place: where it is listed, e.g. ``train.csv, line 4``; empty if there is no list.
    """

    id: str
    label: int
    group: str
    split: str
    sources: Mapping[str, Source]
    place: str = ""

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"{self.id} ({self.place})" if self.place else self.id


class NativeDataset(Dataset):
    """A dataset read from a root folder: lists samples, decodes them in parallel, resumes.

    A subclass says which samples there are (``samples``) and how each modality is decoded
    (``decoders``).

    Class attributes:
        published: samples that the publication counts, per default config; shown by ``verify``.
    """

    resumable = True
    published: ClassVar[int] = 0
    config: NativeConfig

    @abstractmethod
    def samples(self, root: Path) -> Sequence[Sample]:
        """Return every sample that the lists name, in all three splits.

        Raises:
            UserError: if the layout or a list is not as documented.
        """

    @abstractmethod
    def decoders(self) -> Mapping[str, "partial[NDArray[np.generic]]"]:
        """Return per modality a function of a ``Source``, its options bound by keyword."""

    def finish(
        self, inputs: Mapping[str, Mapping[str, NDArray[np.generic]]]
    ) -> Mapping[str, Any]:  # Any: JSON values
        """Change the gathered arrays in place, by the training split; return notes to keep."""
        return {}

    def build(self, root: Path | None, scratch: Path) -> Mapping[str, SplitArrays]:
        """Decode all samples; started again, it goes on where it stopped.

        Raises:
            UserError: if the root lacks files (unless ``missing=skip``), files cannot be decoded
                (unless ``unreadable=skip``), or a class is absent from a split.
        """
        if root is None:
            raise UserError(
                f"{self.name} needs its native files; give their folder with --root DIR "
                f"(mmbench show {self.name} prints where to get them and what it must hold)"
            )
        root = root.absolute()
        listed = self.samples(root)
        self._check_listed(listed)
        present, left_out = self._present(listed, root, scratch)
        self._check_classes(present)  # before hours of decoding
        decoders = self.decoders()
        decoded = decode_all(
            present,
            [_key(sample, decoders, root) for sample in present],
            partial(_decode, decoders),
            scratch / "shards",
        )
        left_out += self._unreadable(present, decoded, scratch)
        readable = [i for i in range(len(present)) if i not in decoded.unreadable]
        self._check_classes([present[i] for i in readable])
        rows = np.array(readable, dtype=np.int64)
        split = np.array([present[i].split for i in rows])
        label = np.array([present[i].label for i in rows], dtype=np.int64)
        inputs = gather(decoded, rows, split, scratch)
        notes = {
            "source": str(root),
            "listed": len(listed),
            "published": self.published,
            "left_out": left_out,
            **self.finish(inputs),
        }
        (scratch / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        return {
            name: SplitArrays(
                inputs=inputs[name],
                label=label[split == name],
                ids=tuple(present[i].id for i in rows[split == name]),
                groups=tuple(present[i].group for i in rows[split == name]),
            )
            for name in SPLITS
        }

    def _check_listed(self, listed: Sequence[Sample]) -> None:
        first: dict[str, Sample] = {}
        for sample in listed:
            if sample.id in first:
                places = " and ".join(dict.fromkeys([first[sample.id].place, sample.place]))
                raise UserError(
                    f"the lists of {self.name} name {sample.id!r} twice"
                    + (f" ({places})" if places else "")
                    + "; keep each sample in one line of one list"
                )
            first[sample.id] = sample
        empty = [name for name in SPLITS if not any(s.split == name for s in listed)]
        if empty:
            raise UserError(
                f"the split {empty[0]} of {self.name} is empty ({len(listed)} samples in all); "
                f"mmbench show {self.name} prints which lists it comes from"
            )

    def _present(
        self, listed: Sequence[Sample], root: Path, scratch: Path
    ) -> tuple[list[Sample], list[str]]:
        """Return the samples whose files are there, and what is missing of the others."""
        lacking = {
            s.id: [_below(x.file, root) or m for m, x in s.sources.items() if x.missing()]
            for s in listed
        }
        found = [
            f"{s.called}: there is no {', '.join(dict.fromkeys(lacking[s.id]))}"
            for s in listed
            if lacking[s.id]
        ]
        if len(found) == len(listed):
            raise UserError(
                f"none of the {len(listed)} samples that {self.name} lists has its files below "
                f"{root} (e.g. {found[0]}); mmbench show {self.name} prints the folder tree"
            )
        refuse_or_tell(
            found,
            f"{len(found)} of {len(listed)} samples of {self.name} have no files",
            skip=self.config.missing == "skip",
            advice="get them, or leave them out with --set missing=skip",
            scratch=scratch,
        )
        return [s for s in listed if not lacking[s.id]], found

    def _unreadable(self, present: Sequence[Sample], decoded: Decoded, scratch: Path) -> list[str]:
        found = [
            f"{present[i].called}: {'; '.join(f'{m}: {what}' for m, what in mistakes.items())}"
            for i, mistakes in sorted(decoded.unreadable.items())
        ]
        refuse_or_tell(
            found,
            f"{len(found)} of {len(present)} samples of {self.name} cannot be decoded",
            skip=self.config.unreadable == "skip",
            advice="mend them and type the command again (what was decoded is kept), or leave "
            "them out with --set unreadable=skip",
            scratch=scratch,
        )
        return found

    def _check_classes(self, usable: Sequence[Sample]) -> None:
        """Refuse an empty split, and a class that training would never see."""
        for name in SPLITS:
            if not any(s.split == name for s in usable):
                raise UserError(
                    f"no sample of the split {name} of {self.name} can be used; check that its "
                    "files are there"
                )
        there = {s.label for s in usable if s.split == "train"}
        absent = [name for i, name in enumerate(self.task.classes) if i not in there]
        if absent:
            raise UserError(
                f"no training sample of {self.name} is {absent[0]!r}"
                + (f" (nor {', '.join(map(repr, absent[1:]))})" if absent[1:] else "")
                + "; check that the files of that class are there and that train lists them"
            )


def require(root: Path, name: str, *entries: str) -> None:
    """Refuse a root that lacks one of ``entries``.

    Args:
        root: the folder the user gave.
        name: of the dataset.
        entries: files or folders below it.

    Raises:
        UserError: names the first that is missing and what is there instead.
    """
    for entry in entries:
        if not (root / entry).exists():
            inside = sorted(p.name for p in root.iterdir())
            shown = ", ".join(inside[:ENTRIES]) + (", ..." if len(inside) > ENTRIES else "")
            raise UserError(
                f"there is no {entry} in {root} (found {shown or 'nothing'}); --root is the folder "
                f"that holds it (mmbench show {name} prints the tree)"
            )


def first_of(root: Path, candidates: Sequence[str]) -> Path | None:
    """Return the first of ``candidates`` that is there below ``root``, or None."""
    return next((root / c for c in candidates if (root / c).exists()), None)


def required_list(root: Path, candidates: Sequence[str], advice: str) -> Path:
    """Return the first of ``candidates`` that is there below ``root``.

    Args:
        root: the folder the user gave.
        candidates: where the list may be; the first is what a message calls it.
        advice: what to do if there is none.

    Raises:
        UserError: if there is none.
    """
    file = first_of(root, candidates)
    if file is None:
        raise UserError(f"there is no list {candidates[0]} in {root}; {advice}")
    return file


def read_lines(file: Path) -> list[tuple[int, str]]:
    """Return (number, text) of every line that is not blank; a BOM and CRLF are accepted.

    Raises:
        UserError: if it is not UTF-8 text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"cannot read the list {file}: {err}; save it as UTF-8 text") from err
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _below(file: str, root: Path) -> str:
    """Return a file's place below the root; empty if there is no file."""
    path = Path(file)
    return str(path.relative_to(root)) if file and path.is_relative_to(root) else file


def _key(sample: Sample, decoders: Mapping[str, "partial[NDArray[np.generic]]"], root: Path) -> str:
    """Return a text that changes with whatever changes the sample's arrays."""
    return digest(
        [
            [m, f"{d.func.__module__}.{d.func.__name__}", d.keywords,
             sample.sources[m].facts(root)]
            for m, d in decoders.items()
        ]
    )  # fmt: skip


def _decode(
    decoders: Mapping[str, Decoder], sample: Sample
) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """Return one sample's arrays, and what is wrong with those that could not be made."""
    arrays, mistakes = {}, {}
    for m, decoder in decoders.items():
        source = sample.sources[m]
        try:
            if source.file and Path(source.file).is_file():
                refuse_empty(Path(source.file))
            with explained():
                arrays[m] = decoder(source)
        except UnreadableError as err:
            mistakes[m] = f"{source.file}: {err}"
    return arrays, mistakes
