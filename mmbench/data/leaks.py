"""Samples whose content lies in two splits: what is learnt in one is remembered in the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mmbench.dataset import SplitArrays, Task

# They repeat by chance ("yes", a feature of few values); a picture or a sound does not.
BY_CHANCE = frozenset({"text", "vector"})
OFTEN = 2  # times as often as within a split: no chance


@dataclass(frozen=True)
class Shared:
    """What of one split lies in another too.

    Attributes:
        modality: whose arrays are alike; None: those of all modalities.
        count: samples of the second split.
        of: its size.
        ids: of the first such sample, in the first split and in the second.
        leak: whether this cannot be by chance.
    """

    modality: str | None
    count: int
    of: int
    ids: tuple[str, str]
    leak: bool

    def told(self, one: str, two: str) -> str:
        """Say it, for the splits of these names."""
        what = f"{self.modality} of " if self.modality else ""
        first, second = self.ids
        return (
            f"{what}{self.count} of {self.of} samples of {two} {'is' if what else 'are'} in {one} "
            f"too, as {second!r}, there {first!r}"
        )


def leaks(task: Task, splits: Mapping[str, SplitArrays]) -> dict[tuple[str, str], list[Shared]]:
    """Return for every two splits what the second shares with the first.

    Whole samples come first, then each modality that more samples share than are shared whole.
    """
    held = {split: _contents(task, arrays) for split, arrays in splits.items()}
    return {
        (one, two): list(_shared(task, (splits[one], held[one]), (splits[two], held[two])))
        for one, two in combinations(splits, 2)
    }


Contents = Mapping[str, list[bytes]]  # by modality, the hash of every sample


def _contents(task: Task, arrays: SplitArrays) -> Contents:
    return {m: [_hash(x) for x in arrays.inputs[m]] for m in task.names}


def _hash(x: NDArray[np.generic]) -> bytes:
    return blake2b(np.ascontiguousarray(x).data, digest_size=16).digest()


def _shared(
    task: Task, first: tuple[SplitArrays, Contents], second: tuple[SplitArrays, Contents]
) -> Iterator[Shared]:
    (one, held), (two, other) = first, second
    rows = _rows(held)
    whole = _alike(rows, _rows(other), two, task.names)
    if whole:
        chance = all(m.kind in BY_CHANCE for m in task.modalities)
        usual = 1 - len(set(rows)) / len(rows)  # of samples that repeat within one split
        leak = not chance or len(whole) / len(two) > OFTEN * usual
        yield _found(None, whole, one, two, leak=leak)
    for m in task.modalities if len(task.modalities) > 1 else ():
        pairs = _alike(held[m.name], other[m.name], two, [m.name])
        if len(pairs) > len(whole):
            yield _found(m.name, pairs, one, two, leak=m.kind not in BY_CHANCE)


def _rows(held: Contents) -> list[bytes]:
    return [b"".join(row) for row in zip(*held.values(), strict=True)]


def _alike(
    one: list[bytes], two: list[bytes], arrays: SplitArrays, names: Sequence[str]
) -> dict[int, int]:
    """Return the rows of ``two``, whose arrays are given, that ``one`` holds; each with its row."""
    known = {content: row for row, content in reversed([*enumerate(one)])}
    return {
        row: known[content]
        for row, content in enumerate(two)
        if content in known and not all(_blank(arrays.inputs[m][row]) for m in names)
    }


def _blank(x: NDArray[np.generic]) -> bool:
    """Say whether nothing can be seen or heard: two black pictures are not the same picture."""
    return x.size > 1 and bool((x == x.flat[0]).all())


def _found(
    modality: str | None,
    pairs: Mapping[int, int],
    one: SplitArrays,
    two: SplitArrays,
    *,
    leak: bool,
) -> Shared:
    row, there = next(iter(pairs.items()))
    return Shared(modality, len(pairs), len(two), (one.ids[there], two.ids[row]), leak)
