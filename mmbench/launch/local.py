"""The local pool: one long-lived worker per slot, so that torch is imported once per slot."""

import contextlib
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbench.cell import Cell
from mmbench.errors import UserError
from mmbench.launch.source import Source, Task
from mmbench.settings import RunSettings

ENDS = {"done", "refused", "failed", "interrupted"}  # a worker's last word about a cell
HELD_BACK = {signal.SIGTERM, signal.SIGUSR1}  # from a worker, until it can act on them

Watcher = Callable[[Cell | None, dict[str, Any]], None]


@dataclass(frozen=True)
class Slot:
    """Where one worker runs."""

    device: str
    threads: int


def slots(
    device: str, jobs: int | None, per_gpu: int, threads: int | None, gpus_per_cell: int = 1
) -> list[Slot]:
    """Return the slots: GPUs x ``per_gpu``, or ``jobs`` on the CPU with its cores divided.

    With several GPUs per cell a slot is that many of them, by commas.

    Raises:
        UserError: if the device is not there, or there are too few.
    """
    kind = device
    if device != "cpu":  # which needs no torch to be there
        import torch

        from mmbench.training.device import choose

        kind = choose(device).type
    if kind == "cuda":
        fixed = ":" in device
        names = [device] if fixed else [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        groups = zip(*[iter(names)] * gpus_per_cell, strict=False)
        where = [",".join(group) for group in groups for _ in range(per_gpu)]
    else:
        enough = kind == "cpu" or gpus_per_cell == 1
        alone = max(1, cores() // gpus_per_cell) if kind == "cpu" else 1
        names, where = [kind], [kind] * (jobs or alone) if enough else []
    if not where:
        raise UserError(
            f"--gpus-per-cell {gpus_per_cell} needs as many GPUs; found {len(names)} with --device "
            f"{device}"
        )
    share = threads or max(1, cores() // (len(where) * gpus_per_cell))
    return [Slot(name, share) for name in where]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def python(processes: int) -> list[str]:
    """Return the command that runs a module in one process, or in several by torchrun."""
    alone = [sys.executable, "-P"]
    if processes == 1:
        return alone
    torchrun = ["-m", "torch.distributed.run", "--standalone"]
    return [*alone, *torchrun, "--nproc-per-node", str(processes)]


@dataclass
class _Worker:
    slot: Slot
    process: "subprocess.Popen[str]"
    log: Path
    task: Task | None = None
    idle: bool = False  # waits for a cell that others hold
    dismissed: bool = False  # was told that there is nothing more for it

    @property
    def cell(self) -> Cell | None:
        return self.task.cell if self.task else None


@dataclass
class Outcome:
    """How a pool ended: the reason of each failed and each refused cell, by id.

    ``elsewhere``: cells that another process was running whenever they were tried.
    ``cancelled``: cells that someone cancelled by name.
    """

    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    interrupted: bool = False


class Pool:
    """Runs cells on this machine.

    Args:
        results: the results folder.
        cache: the folder of prepared data.
        run: settings of this machine.
        places: one worker each.
        plugins: the user's ``--plugin`` values.
        watch: called with (cell, message) for every message of a worker.
        logs: where the workers write; by default beside the runs.
    """

    def __init__(
        self,
        results: Path,
        cache: Path,
        run: RunSettings,
        places: Sequence[Slot],
        plugins: Sequence[str],
        watch: Watcher,
        logs: Path | None = None,
    ) -> None:
        self.results, self.cache, self.run_settings = results, cache, run
        self.places, self.plugins, self.watch = places, plugins, watch
        self.logs = logs or results / "runs" / ".logs"
        # A simple queue, as a signal handler may put into it while it is being read.
        self.messages: queue.SimpleQueue[tuple[_Worker | None, dict[str, Any] | None]]
        self.messages = queue.SimpleQueue()
        self.workers: list[_Worker] = []  # those whose output is open
        self.outcome = Outcome()
        self.stopping = self.hurry = False
        self.numbers = itertools.count(1)

    def run(self, source: Source) -> Outcome:
        """Run the cells of ``source``; a failed one does not stop the rest.

        Ctrl-C stops at a step boundary, after a checkpoint; a second one ends the workers at once.
        """
        self.source = source
        try:
            for slot in self.places[: len(source)]:
                self._start(slot)
            self._serve()
        except KeyboardInterrupt:
            self.outcome.interrupted = True
            self.hurry = self.stopping  # it was asked before
            if not self.hurry:
                self.watch(None, {"kind": "stopping"})
        finally:
            self._end()
        return self.outcome

    def request_stop(self) -> None:
        """Stop cells at the next step boundary, after a checkpoint; signal handlers may call."""
        self.messages.put((None, None))

    def _end(self) -> None:
        """Stop the workers and take in their last words, or, in a hurry, end them."""
        try:
            if self.hurry:
                raise KeyboardInterrupt
            self._stop()
            self._serve()
        except KeyboardInterrupt:
            for worker in self.workers:
                worker.process.kill()
            for worker in self.workers:
                worker.process.wait()
                self._ended(worker, {"kind": "interrupted"})

    def _stop(self) -> None:
        self.stopping = True
        for worker in self.workers:
            self._tell(worker, {"do": "stop"})

    def _serve(self) -> None:
        """Give out cells and take in messages until the last worker has ended."""
        while self.workers:
            try:
                worker, message = self.messages.get(timeout=self._pause())
            except queue.Empty:
                for idle in [each for each in self.workers if each.idle]:
                    self._give(idle)
                continue
            if worker is None:
                self.outcome.interrupted = True
                self._stop()
                self.watch(None, {"kind": "stopping"})
            elif message is None:
                self._replace(worker)
            else:
                self._hear(worker, message)

    def _pause(self) -> float | None:
        """Return how long to wait for a message before looking for cells again."""
        if self.stopping or not any(worker.idle for worker in self.workers):
            return None
        return self.source.again() or 0.0

    def _hear(self, worker: _Worker, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind in ENDS:
            self._ended(worker, message)
        elif kind != "ready":
            self.watch(worker.cell, message)
        # Interrupted, it ends by itself, unless that cell alone was cancelled.
        if kind == "ready" or (kind in ENDS - {"interrupted"}) or message.get("cancelled"):
            self._give(worker)

    def _ended(self, worker: _Worker, message: dict[str, Any]) -> None:
        """Take note that the worker's cell, if it has one, has ended."""
        task, worker.task = worker.task, None
        if task is None:
            return
        self.outcome.elsewhere.pop(task.cell.id, None)
        if message.get("again") == "busy":
            self.outcome.elsewhere[task.cell.id] = str(message["reason"])
            message = {**message, "kind": "elsewhere"}
        elif message["kind"] in {"failed", "refused"}:
            failed = message["kind"] == "failed"
            reasons = self.outcome.failed if failed else self.outcome.refused
            reasons[task.cell.id] = str(message["reason"])
        elif message.get("cancelled"):
            self.outcome.cancelled.add(task.cell.id)
        self.watch(task.cell, message)
        self.source.ended(task, message)

    def _give(self, worker: _Worker) -> None:
        """Give a worker its next cell; let it wait or end if there is none."""
        worker.task = None if self.stopping else self.source.take(worker.log)
        worker.idle = False
        if worker.task:
            lease = worker.task.lease
            order = {"do": "run", "cell": worker.task.cell.model_dump(mode="json")}
            self._tell(worker, {**order, "lease": lease.number if lease else None})
            self.watch(worker.cell, {"kind": "started"})
        elif self.stopping or self.source.again() is None:
            worker.dismissed = True
            self._tell(worker, {"do": "stop"})
        else:
            worker.idle = True

    def _replace(self, dead: _Worker) -> None:
        """Report the cell of a worker that ended; start another if there is work."""
        code = dead.process.wait()
        self.workers.remove(dead)
        if dead.task is not None:
            how = _how(code)
            reason = f"its worker {how}; see the end of {dead.log}"
            self._ended(dead, {"kind": "failed", "reason": reason, "died": how})
        elif code != 0 and not self.stopping:
            raise UserError(f"a worker could not start ({_how(code)}); see {dead.log}")
        if len(self.source) and not (self.stopping or dead.dismissed):
            self._start(dead.slot)

    def settings(self, slot: Slot) -> RunSettings:
        """Return the settings of the worker in ``slot``: it shares a GPU's memory with others."""
        sharing = 1 if slot.device == "cpu" else self.places.count(slot)
        update = {
            "device": slot.device,
            "threads": slot.threads,
            "resident_fraction": self.run_settings.resident_fraction / sharing,
        }
        return self.run_settings.model_copy(update=update)

    def _start(self, slot: Slot) -> None:
        settings = self.settings(slot)
        self.logs.mkdir(parents=True, exist_ok=True)
        name = f"worker-{socket.gethostname()}-{os.getpid()}-{next(self.numbers)}.log"
        log = self.logs / name
        command = [*python(settings.gpus_per_cell), "-m", "mmbench.launch.worker"]
        command += ["--results", str(self.results), "--cache", str(self.cache)]
        command += ["--settings", settings.model_dump_json()]
        for plugin in self.plugins:
            command += ["--plugin", plugin]
        environment = {
            # Batches are made anew each time: in large pages that costs less. torch reads it once.
            "THP_MEM_ALLOC_ENABLE": "1",
            # On a GPU: fewer fragments, so that a worker holds little more than its cells need.
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            **os.environ,
            "OMP_NUM_THREADS": str(slot.threads),
            "MKL_NUM_THREADS": str(slot.threads),
            "PYTHONSAFEPATH": "1",  # torchrun does not hand -P on
        }
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)  # inherited
        try:
            with log.open("a") as errors:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches the pool alone
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        worker = _Worker(slot, process, log)
        self.workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None  # opened with PIPE
        for line in worker.process.stdout:
            with contextlib.suppress(ValueError):  # a line cut off by the worker's death
                self.messages.put((worker, json.loads(line)))
        self.messages.put((worker, None))

    def _tell(self, worker: _Worker, message: dict[str, Any]) -> None:
        assert worker.process.stdin is not None  # opened with PIPE
        with contextlib.suppress(OSError):  # a dead worker is seen by its closed output
            worker.process.stdin.write(json.dumps(message) + "\n")
            worker.process.stdin.flush()


def _how(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with code {code}"
    return f"was killed by {signal.Signals(-code).name}"
