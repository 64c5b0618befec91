"""Decoding many samples in parallel, so that a stop loses at most the shards in work.

A shard is a file of up to ``SHARD`` samples, named by the hash of what went into it and written
whole or not at all. Started again, what is there is kept; a mended file costs its own shard.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmbench.cell import digest
from mmbench.data.progress import Progress
from mmbench.dataset import SPLITS
from mmbench.errors import UserError

SHARD = 64  # samples: a second or two of decoding video
FORM = "places"  # of a shard; another word when that changes
Arrays = Mapping[str, NDArray[np.generic]]
S = TypeVar("S")
Decode = Callable[[S], tuple[Arrays, Mapping[str, str]]]


@dataclass(frozen=True)
class Decoded:
    """What was decoded.

    Attributes:
        shards: files, each with ``place`` [n] int64 and one array [n, ...] per modality; and the
            numbers of the samples that belong into each, which ``place`` points into.
        unreadable: per sample number what is wrong, per modality.
    """

    shards: tuple[tuple[Path, tuple[int, ...]], ...]
    unreadable: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], Arrays]]:
        """Yield (index, arrays) shard by shard: memory holds one at a time."""
        for file, members in self.shards:
            with np.load(file, allow_pickle=False) as held:
                index = np.array(members, dtype=np.int64)[held["place"]]
                yield index, {m: held[m] for m in held.files if m != "place"}


def decode_all(
    samples: Sequence[S], keys: Sequence[str], decode: Decode[S], folder: Path
) -> Decoded:
    """Decode every sample, in a process per core that this process may use.

    Args:
        samples: what ``decode`` takes; pickled.
        keys: per sample a text that changes with anything that changes its arrays.
        decode: from a sample to (arrays, mistakes per modality); pickled.
        folder: where shards are kept until the caller has used them.

    Raises:
        UserError: if a process dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo: dict[Path, list[int]] = {}
    shards: dict[Path, list[int]] = {}
    for members in _members(keys):
        file = folder / f"{digest([FORM, *(keys[i] for i in members)], 24)}.npz"
        shards[file] = members
        if not _is_whole(file):
            todo[file] = members
    unreadable: dict[int, Mapping[str, str]] = {}
    done = len(keys) - sum(map(len, todo.values()))
    with Progress(len(keys), done) as progress, _pool(len(todo)) as pool:
        waiting: dict[Future[Mapping[int, Mapping[str, str]]], Path] = {
            pool.submit(_shard, file, [samples[i] for i in members], decode): file
            for file, members in todo.items()
        }
        try:
            while waiting:
                ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    members = todo[waiting.pop(future)]
                    unreadable |= {members[place]: x for place, x in future.result().items()}
                    progress.advance(len(members))
        except BrokenProcessPool as err:
            raise UserError(
                "a process that decodes was killed, perhaps for memory; type the command again: it "
                "goes on where it stopped (one process at a time: taskset -c 0 mmbench prepare ...)"
            ) from err
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    kept = (
        (file if file.is_file() else _incomplete(file), tuple(members))
        for file, members in shards.items()
    )
    return Decoded(tuple(kept), unreadable)


def _is_whole(file: Path) -> bool:
    """Say whether a shard is there and as it was written: a power cut may have eaten some of it."""
    try:
        with zipfile.ZipFile(file) as held:
            whole = held.testzip() is None
    except FileNotFoundError:
        return False
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error):
        whole = False
    if not whole:
        file.unlink()
    return whole


def _incomplete(file: Path) -> Path:
    """Return where a shard lies that lacks samples: it is decoded again the next time."""
    return file.with_suffix(".incomplete.npz")


def _members(keys: Sequence[str]) -> list[list[int]]:
    """Share out the samples by hash, so that adding or removing one touches one shard."""
    count = 1
    while count * SHARD < len(keys):
        count *= 2
    found: list[list[int]] = [[] for _ in range(count)]
    for number, key in enumerate(keys):
        found[zlib.crc32(key.encode()) % count].append(number)
    return [members for members in found if members]


def _pool(shards: int) -> ProcessPoolExecutor:
    workers = max(1, min(len(os.sched_getaffinity(0)), shards))
    # Not forked: a fork of a process with running threads may hang.
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_settle
    )


def _settle() -> None:
    """Leave Ctrl-C to the parent, end with it, even if it is killed, and use one thread."""
    # There is a process per core already. Read when torch is imported, by what needs it.
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _shard(file: Path, samples: Sequence[S], decode: Decode[S]) -> dict[int, Mapping[str, str]]:
    """Decode one shard and write it; return the mistakes of the samples that are not in it.

    Samples are told apart by their place in the shard: their numbers in the whole set may be others
    when the next process goes on, after a change of a list.
    """
    unreadable: dict[int, Mapping[str, str]] = {}
    held: list[tuple[int, Arrays]] = []
    for place, sample in enumerate(samples):
        arrays, mistakes = decode(sample)
        if mistakes:
            unreadable[place] = mistakes
        else:
            held.append((place, arrays))
    part = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    places = np.array([place for place, _ in held], dtype=np.int64)
    names = list(held[0][1]) if held else []
    stacked: dict[str, Any] = {m: np.stack([arrays[m] for _, arrays in held]) for m in names}
    np.savez(part, place=places, **stacked)
    part.replace(_incomplete(file) if unreadable else file)
    return unreadable


def gather(
    decoded: Decoded, rows: NDArray[np.int64], split: NDArray[np.str_], scratch: Path
) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Write the shards' samples to one memory-mapped array per split and modality.

    Args:
        decoded: the shards.
        rows: [N] numbers of the samples wanted.
        split: [N] the split of each.
        scratch: where the arrays are written.

    Returns:
        Per split and modality an array in the order of ``rows``.
    """
    home = {}  # from a row's number to its split and its place there
    for name in SPLITS:
        home.update({int(i): (name, k) for k, i in enumerate(rows[split == name])})
    sizes = {name: int((split == name).sum()) for name in SPLITS}
    arrays: dict[str, dict[str, NDArray[np.generic]]] = {name: {} for name in SPLITS}
    for index, held in decoded:
        for m, x in held.items():
            for name in SPLITS:
                if m not in arrays[name]:
                    arrays[name][m] = np.lib.format.open_memmap(
                        scratch / f"{name}.{m}.npy", "w+", x.dtype, (sizes[name], *x.shape[1:])
                    )
                mine = [
                    (j, home[int(i)][1]) for j, i in enumerate(index) if home[int(i)][0] == name
                ]
                if mine:
                    taken, place = map(list, zip(*mine, strict=True))
                    arrays[name][m][place] = x[taken]
    return arrays
