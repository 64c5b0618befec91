"""Real sweeps on the CPU: a folder, claimers as processes, and plug-ins that misbehave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmbench.launch import sweepfolder
from mmbench.launch.sweepfolder import Facts
from mmbench.settings import RunSettings
from mmbench.store import read_record
from mmbench.sweep import Request, expand
from mmbench.training.run_cell import run_cell


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


class Sweep:
    """A sweep of mfeat3 cells, and the processes that work on it."""

    def __init__(self, folder, processes):
        self.folder, self.processes = folder, processes

    def start(self, *more, **options):
        command = [sys.executable, "-P", "-m", "mmbench.launch.claimer"]
        log = self.folder.path / "logs" / f"claimer-{len(self.processes)}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [*command, "--sweep", str(self.folder.path), *more],
                stdout=out,
                stderr=subprocess.STDOUT,
                **options,
            )
        process.log = log
        self.processes.append(process)
        return process

    def run(self, *more):
        """Work on it to the end; return the exit code and what was printed."""
        process = self.start(*more)
        return process.wait(timeout=120), process.log.read_text()

    def directories(self):
        return [self.folder.runs / entry.folder for entry in self.folder.entries]

    def wait_for(self, pattern, number=1):
        """Wait until so many files match in the run directories."""
        while len(found := sorted(self.folder.runs.glob(pattern))) < number:
            assert any(p.poll() is None for p in self.processes), self.processes[-1].log.read_text()
            time.sleep(0.01)
        return found

    def records(self):
        """Return the finished records, in the order of the cells."""
        return [read_record(directory / "record.json") for directory in self.directories()]

    def numbers(self):
        """Return what training computed, in the order of the cells: all but times."""
        return [numbers(record) for record in self.records()]

    def undisturbed(self, folder):
        """Return the numbers of the same cells when nothing happens to them."""
        cache, run = Path(self.folder.facts.cache), self.folder.facts.run
        cells = [self.folder.cell(entry) for entry in self.folder.entries]
        return [numbers(run_cell(c, results=folder, cache=cache, run=run)) for c in cells]


def numbers(record):
    rows = [row.model_dump(exclude={"seconds"}) for row in record.curve]
    return [rows, record.final, record.selection]


@pytest.fixture
def make(cache, tmp_path):
    """Return a function that makes a sweep; its processes end with the test."""
    processes = []

    def sweep(seeds=1, methods=("concat",), epochs=2, lease=60.0, name="results", plugins=(),
              checkpoint_seconds=0.0, per_gpu=1):  # fmt: skip
        for plugin in plugins:
            from mmbench.plugins import load_plugin

            load_plugin(str(plugin))
        request = Request(
            methods=list(methods), datasets=["mfeat3"], seeds=list(range(seeds)),
            protocol="validated", fidelity="corrected", preset="common",
            settings={"trainer.epochs": epochs}, shared={},
        )  # fmt: skip
        run = RunSettings(device="cpu", threads=1, checkpoint_seconds=checkpoint_seconds)
        facts = Facts(
            run=run, cache=str(cache), lease=lease, plugins=[str(p) for p in plugins],
            per_gpu=per_gpu,
        )  # fmt: skip
        cells = expand(request, cache)
        return Sweep(sweepfolder.create(tmp_path / name, cells, facts), processes)

    yield sweep
    for process in processes:
        if process.poll() is None:
            for child in children(process.pid):
                os.kill(child, 9)
            process.kill()
            process.wait()


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(p) for p in text.split()]
