"""Prepare, the loader from the cache, and decoding on the fly, side by side in one run.

    python benchmarks/prepare_speed.py [--device cuda] [--markdown docs/data-speed.md]

Clips in CREMA-D's layout and shapes (480 x 360, 30 pictures a second, 2.5 s, 16 kHz) are written,
and their pictures extracted to JPEG beforehand, as the released code wants them. Then batches of 64
are made, in turns, so that a machine that others load is the same for all of them:

* on the fly as the released code does in each loader process: decode the WAV, resample, repeat,
  STFT; open two JPEGs, crop, mirror, normalise each;
* on the fly from the video: the same, the pictures out of the FLV;
* from the memory map of the prepared cache;
* from the prepared cache in the memory of the device.

One process, one thread each; every batch ends on the device. The cached ways read what training
reads; augmentation, which is batched code on the device, is measured apart.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from importlib import import_module
from pathlib import Path

import psutil

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the pool starts its workers

import torch
from torchvision import transforms

from mmbench.data import cache as data_cache
from mmbench.data.loader import Loader
from mmbench.native.dataset import NativeDataset, Sample
from mmbench.native.pictures import frames
from mmbench.nets.pixels import IMAGENET_MEAN, IMAGENET_STD
from mmbench.registry import DATASETS
from mmbench.testing.command_line import how_many, how_many_from, parser, script
from mmbench.testing.speed import in_turn
from mmbench.training.device import choose
from mmbench.training.environment import environment

BATCH = 64
TURN = {"jpeg": 16, "flv": 16, "map": 256, "memory": 256, "map, augmented": 128}  # clips at a time
TITLES = {
    "jpeg": "on the fly, JPEG pictures (as released)",
    "flv": "on the fly, FLV",
    "map": "cache, memory-mapped",
    "memory": "cache, in the device's memory",
    "map, augmented": "cache, memory-mapped, crop and flip",
}
TARGET = 30  # times faster than on the fly
layouts = import_module("mmbench.datasets.layouts")  # by name: the engine's checker does not see it
Rates = dict[str, list[float]]


def write_clips(root: Path, actors: int) -> int:
    """Write twelve clips of one actor, and link them as those of ``actors``; return how many."""
    layouts.cremad(root, 1, 480, 360)
    for folder in ("AudioWAV", "VideoFlash"):
        for file in sorted((root / folder).iterdir()):
            for actor in range(1002, 1001 + actors):
                os.link(file, root / folder / f"{actor}{file.name[4:]}")
    stems = sorted(p.stem for p in (root / "AudioWAV").iterdir())
    test = {s for s in stems if s[5:12] == f"TIE_{layouts.EMOTIONS[int(s[:4]) % 6]}"}
    for name, chosen in (("train", set(stems) - test), ("test", test)):
        lines = "".join(f"{s},{s.split('_')[2]}\r\n" for s in sorted(chosen))
        (root / f"{name}.csv").write_text(lines)
    return len(stems)


def extract(samples: Sequence[Sample], folder: Path) -> None:
    """Write every clip's pictures at one a second, in their own size, as JPEG."""
    from mmbench.data.media import pyav

    av = pyav()
    for sample in samples:
        place = folder / sample.id
        place.mkdir(parents=True)
        with av.open(sample.sources["video"].file) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number % 29 == 0:
                    frame.to_image().save(place / f"{number:05d}.jpg", quality=95)


class OnTheFly:
    """Makes batches as the released loaders do."""

    def __init__(
        self, dataset: NativeDataset, samples: Sequence[Sample], jpeg: Path, device: torch.device
    ) -> None:
        self.samples, self.jpeg, self.device = samples, jpeg, device
        self.audio = dataset.decoders()["audio"]
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def batch(self, count: int, video: bool) -> None:
        """Make one batch of ``count`` clips."""
        from PIL import Image

        sounds, clips = [], []
        for sample in self.samples[:count]:
            sounds.append(torch.from_numpy(self.audio(sample.sources["audio"])).float())
            if video:
                whole = frames(sample.sources["video"], count=2, size=360)
                pictures = [Image.fromarray(p) for p in whole.transpose(1, 2, 3, 0)]
            else:
                files = sorted((self.jpeg / sample.id).iterdir())[:2]
                pictures = [Image.open(file).convert("RGB") for file in files]
            clips.append(torch.stack([self.transform(p) for p in pictures], 1))
        for batch in (torch.stack(sounds), torch.stack(clips)):
            batch.to(self.device)


def cached(
    dataset: NativeDataset, cache: Path, resident: bool, augmented: bool, device: torch.device
) -> Callable[[int], None]:
    """Return a function that reads that many samples in training order."""
    prepared = data_cache.load(dataset, cache=cache)
    changes = prepared.augmentations if augmented else None
    loader = Loader(
        [prepared.splits["train"]], device, torch.float32, BATCH, 0,
        augmentations=changes, resident=resident, modalities=prepared.task.modalities,
    )  # fmt: skip
    index = torch.arange(len(loader))
    state = {"epoch": 0}

    def read(samples: int) -> None:
        seen = 0
        while seen < samples:
            for batch in loader.training(index, state["epoch"]):
                seen += len(batch.label)
                if seen >= samples:
                    break
            state["epoch"] += 1
        if device.type == "cuda":
            torch.cuda.synchronize()

    read(len(loader))  # the memory map's pages are in memory from now on
    return read


def in_turns(ways: Mapping[str, Callable[[int], None]], rounds: int) -> Rates:
    """Return clips per second of every way and round."""
    rates: Rates = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first warms up
        for name in in_turn(list(ways), number):
            begun = time.perf_counter()
            ways[name](TURN[name])
            if number:
                rates[name].append(TURN[name] / (time.perf_counter() - begun))
    return rates


def prepare_once(root: Path, cache: Path, *options: str) -> tuple[float, float]:
    """Prepare in a process of its own; return its seconds and the most memory of it and its pool.

    Memory is what only these processes have: pages of files, which the system may drop, are not in
    it.
    """
    command = [sys.executable, "-P", "-m", "mmbench", "prepare", "cremad", "--root", str(root),
               "--cache", str(cache), *options]  # fmt: skip
    begun, most = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        held = 0
        try:
            for one in (process, *process.children(recursive=True)):
                held += one.memory_full_info().uss
        except psutil.Error:  # one of them has just ended
            continue
        most = max(most, held)
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"prepare failed: {' '.join(command)}")
    return time.perf_counter() - begun, most / 2**20


def spread(values: Sequence[float], digits: int) -> str:
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [*values] * 3
    low, median, high = (f"{value:.{digits}f}" for value in quartiles)
    return f"{median} ({low} to {high})"


def table_of_ways(title: str, rates: Rates) -> tuple[list[str], list[float]]:
    """Return the lines of one table, and the ratios of the memory map to the released way."""
    lines = [f"## {title}", "", "| way | clips per second | times the released way |",
             "|:--|--:|--:|"]  # fmt: skip
    for name, values in rates.items():
        ratio = [v / r for v, r in zip(values, rates["jpeg"], strict=True)]
        lines.append(f"| {TITLES[name]} | {spread(values, 0)} | {spread(ratio, 1)} |")
    return [*lines, ""], [v / r for v, r in zip(rates["map"], rates["jpeg"], strict=True)]


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(__doc__, "--markdown")
    arguments.add_argument(
        "--rounds", type=how_many, default=9, help="turns of each way (default: %(default)s)"
    )
    arguments.add_argument(
        "--actors", type=how_many_from(2), nargs="+", default=[12, 24, 48],
        help="of the sets that are prepared, two or more, 12 clips each (default: 12 24 48)",
    )  # fmt: skip
    arguments.add_argument(
        "--device", default="cpu", help="where batches are wanted: cpu or cuda (default: cpu)"
    )
    options = arguments.parse_args(argv)
    device = choose(options.device)
    torch.set_num_threads(1)
    loads = [os.getloadavg()[0]]
    cls = DATASETS.load("cremad")
    sections: list[str] = []
    ratios: dict[str, list[float]] = {}
    sizes: list[tuple[int, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        root, cache, jpeg = (Path(folder) / name for name in ("root", "cache", "jpeg"))
        for actors in options.actors:
            part = Path(folder) / f"root{actors}"
            count = write_clips(part, actors)
            sizes.append((count, *prepare_once(part, Path(folder) / f"cache{actors}")))
        write_clips(root, 12)
        for audio, title in (("stft3s", "Sound of 3 s"), ("stft20s", "Sound of 20 s (IPRM)")):
            dataset = cls(cls.Config(audio=audio))
            prepare_once(root, cache, "--set", f"audio={audio}")
            samples = list(dataset.samples(root))
            if not jpeg.exists():
                extract(samples, jpeg)
            live = OnTheFly(dataset, samples, jpeg, device)
            ways: dict[str, Callable[[int], None]] = {
                "jpeg": partial(live.batch, video=False),
                "flv": partial(live.batch, video=True),
                "map": cached(dataset, cache, False, False, device),
                "memory": cached(dataset, cache, True, False, device),
                "map, augmented": cached(dataset, cache, False, True, device),
            }
            lines, ratios[title] = table_of_ways(title, in_turns(ways, options.rounds))
            sections += lines
    loads.append(os.getloadavg()[0])
    text = page(sections, ratios, sizes, loads, options.rounds, device)
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")


def page(
    sections: Sequence[str],
    ratios: Mapping[str, Sequence[float]],
    sizes: Sequence[tuple[int, float, float]],
    loads: Sequence[float],
    rounds: int,
    device: torch.device,
) -> str:
    """Return the whole page."""
    here = environment(device)
    verdicts = []
    for title, values in ratios.items():
        reached = statistics.median(values)
        word = "reached" if reached >= TARGET else "MISSED"
        verdicts.append(
            f"- {title}: memory map {reached:.0f} times the released way; target {TARGET}: {word}."
        )
    busy = max(loads) > 1.5
    grown = sizes[-1][2] / sizes[0][2]
    return "\n".join(
        [
            "# Speed of data",
            "",
            "Generated by `benchmarks/prepare_speed.py`; run it again to replace this file.",
            "",
            "CREMA-D's layout and shapes: clips of 2.5 s, 480 x 360, 16 kHz; two pictures of 224 x",
            f"224. Batches of {BATCH}, one process and thread each, {rounds} rounds of all ways in "
            "turns; median",
            "and quartiles. The ratio is taken round by round.",
            "",
            f"- {here.device_name}, {os.cpu_count()} cores, torch {here.libraries['torch']}, "
            f"{date.today().isoformat()}, commit {str(here.commit)[:10]}",
            f"- load average {loads[0]:.1f} before and {loads[-1]:.1f} after"
            + ("; the machine was not idle: trust the ratios, not the rates." if busy else "."),
            *verdicts,
            "",
            *sections,
            "## Prepare",
            "",
            "In a process per core, its start included; memory of all processes together, at most.",
            "",
            "| clips | seconds | clips per second | MiB |",
            "|--:|--:|--:|--:|",
            *(f"| {n} | {s:.0f} | {n / s:.0f} | {m:.0f} |" for n, s, m in sizes),
            "",
            f"{sizes[-1][0] / sizes[0][0]:.0f} times the clips take {grown:.2f} times the memory.",
            "",
        ]
    )


if __name__ == "__main__":
    script(main)
