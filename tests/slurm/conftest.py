"""One private cluster for all tests of this folder, and a sweep of short, slow cells on it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmbench.testing.slurm import Cluster, Unavailable, wait_for
from mmbench.testing.slurm import cluster as private_cluster

LEASE = 6  # seconds
SETTINGS = ("--set", "trainer.epochs=12", "--set", "trainer.batch_size=128")
PLUGIN = '''
"""A method whose steps take their time, so that a fault can strike in the middle of an epoch."""

import os
import select

from mmbench.methods.concat import Concat
from mmbench.registry import register_method


@register_method("my-slow")
class Slow(Concat):
    """Sleeps in every step until all cells, or those of its seed, are told to hurry."""

    def step(self, batch):
        hurry = os.environ["TEST_HURRY"]
        if not (os.path.exists(hurry) or os.path.exists(f"{hurry}.{self.fit.seed}")):
            select.select([], [], [], 0.4)  # libfaketime lets time.sleep fail
        return super().step(batch)
'''


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    """The cluster, or a skip that says why there is none."""
    try:
        with private_cluster() as made:
            yield made
    except Unavailable as err:
        pytest.skip(str(err))


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster without jobs, all its daemons at work."""
    yield whole_cluster
    whole_cluster.restore()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@dataclass
class Grid:
    """Three short cells, each with a results folder of its own on the cluster's machine."""

    cluster: Cluster
    folder: Path
    cache: Path
    reference: "Grid | None" = None
    lease = LEASE

    def __post_init__(self) -> None:
        self.results = self.folder / "results"
        self.results.mkdir(exist_ok=True)
        self.plugin = self.folder / "slow.py"
        self.plugin.write_text(PLUGIN)
        self.environment = {
            **self.cluster.environment, "TEST_HURRY": str(self.folder / "hurry"),
        }  # fmt: skip

    def command(self, *words: str) -> list[str]:
        """Return the command that runs these cells, with ``words`` at its end."""
        return [
            sys.executable, "-P", "-m", "mmbench", "run", "--methods", "my-slow", "--seeds", "3",
            "--datasets", "mfeat3", *SETTINGS, "--plugin", str(self.plugin), "--results",
            str(self.results), "--cache", str(self.cache), "--checkpoint-seconds", "0", *words,
        ]  # fmt: skip

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run these cells, with more options and variables."""
        return subprocess.run(
            self.command(*words), env={**self.environment, **environment}, capture_output=True,
            text=True, check=False, timeout=240,
        )  # fmt: skip

    def profile(self, time: int = 30, warn: int = 10, text: str = "") -> tuple[str, str]:
        """Return the options that submit with a short lease and the lines ``text``."""
        file = self.folder / "profile.toml"
        file.write_text(f"time = {time}\nwarn = {warn}\nlease = {LEASE}\n{text}\n")
        return "--profile", str(file)

    def submit(self, *words: str, **environment: str) -> str:
        """Submit these cells; return what was printed."""
        given = words if "--profile" in words else (*self.profile(), *words)
        done = self.run(*given, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def mmbench(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another command on these results."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "mmbench", *words, "--results", str(self.results)],
            env=self.environment, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip

    def hurry(self, seed: int | None = None) -> None:
        """Let the cells, or those of one seed, run to their end without delay."""
        Path(self.environment["TEST_HURRY"] + ("" if seed is None else f".{seed}")).touch()

    def wait_training(self, count: int = 1) -> list[Path]:
        """Return the run directories of ``count`` cells in the middle of an epoch."""

        def training() -> list[Path]:
            return sorted({file.parent for file in self.results.glob("runs/*/checkpoint-*")})

        self.wait(lambda: len(training()) >= count, f"{count} cells to train", 200)
        return training()[:count]

    @staticmethod
    def lease_of(folder: Path) -> Path:
        """Return the lease of a run directory that counts."""
        return max(folder.glob("lease-*.json"))

    def owner_of(self, folder: Path) -> dict[str, Any]:
        """Return who holds it."""
        held: dict[str, Any] = json.loads(self.lease_of(folder).read_text())
        return held

    def child_of(self, folder: Path) -> int:
        """Return the process that trains: the only child of the one that holds the lease."""
        holder = self.owner_of(folder)["pid"]
        (child,) = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
        return int(child)

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 240) -> None:
        """Wait, and show the jobs and their logs if it takes too long."""
        try:
            wait_for(condition, what, seconds)
        except TimeoutError as err:
            raise AssertionError(f"{err}\n{self.cluster.jobs()}\n{self.log(1500)}") from err

    def log(self, most: int = 1_000_000) -> str:
        """Return the ends of all logs."""
        files = sorted(file for file in self.results.glob("sweeps/*/logs/*") if file.is_file())
        return "\n".join(f"== {file.name}\n{file.read_text()[-most:]}" for file in files)

    def records(self) -> dict[str, dict[str, Any]]:  # Any: JSON values
        """Return what each cell computed, by its run directory: all but times."""
        found = {}
        for file in self.results.glob("runs/*/record.json"):
            record = json.loads(file.read_text())
            rows = [{k: v for k, v in row.items() if k != "seconds"} for row in record["curve"]]
            found[file.parent.name] = {"curve": rows} | {
                k: record[k] for k in ("final", "selection")
            }
        return found

    def table(self) -> str:
        """Return the table of these records, without their date and commit."""
        done = self.mmbench("report", "--no-figures")
        assert done.returncode == 0, done.stderr
        (file,) = self.results.glob("tables/everything.md")
        return re.sub(r"Records of .*", "", file.read_text())

    def ends_as_undisturbed(self) -> None:
        """Let the sweep end, and compare it with one that nothing happened to."""
        assert self.reference is not None
        self.hurry()
        self.wait(lambda: len(self.records()) == 3, "three records", 300)
        self.wait(lambda: not self.cluster.jobs("PD,R,CG"), "the jobs to end", 200)
        assert self.records() == self.reference.records()
        assert self.table() == self.reference.table()
        said = re.findall(r" done (\S+)", self.log())
        assert sorted(said) == sorted(self.records()), f"not each ran once:\n{self.log(1500)}"
        left = [file.name for file in self.results.glob("runs/*/*") if file.name != "cell.json"]
        assert left == ["record.json"] * 3


@pytest.fixture(scope="session")
def reference(
    whole_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Grid:
    """The same cells, run here without SLURM and undisturbed."""
    grid = Grid(whole_cluster, tmp_path_factory.mktemp("reference"), cache)
    grid.hurry()
    done = grid.run("--jobs", "1", "--threads", "1")  # as a job has: more of them round otherwise
    assert done.returncode == 0, done.stdout + done.stderr
    return grid


@pytest.fixture
def grid(cluster: Cluster, tmp_path: Path, cache: Path, reference: Grid) -> Grid:
    return Grid(cluster, tmp_path, cache, reference)
