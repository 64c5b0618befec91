"""The local pool: one long-lived worker per slot, so that torch is imported once per slot."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbench.cell import Cell
from mmbench.errors import UserError
from mmbench.settings import RunSettings

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
    import torch

    from mmbench.training.device import choose

    chosen = choose(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if chosen.type == "cuda":
        fixed = ":" in device
        names = [device] if fixed else [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        groups = zip(*[iter(names)] * gpus_per_cell, strict=False)
        where = [",".join(group) for group in groups for _ in range(per_gpu)]
    else:
        enough = chosen.type == "cpu" or gpus_per_cell == 1
        alone = max(1, cores // gpus_per_cell) if chosen.type == "cpu" else 1
        names, where = [chosen.type], [chosen.type] * (jobs or alone) if enough else []
    if not where:
        raise UserError(
            f"--gpus-per-cell {gpus_per_cell} needs as many GPUs; found {len(names)} with --device "
            f"{device}"
        )
    share = threads or max(1, cores // (len(where) * gpus_per_cell))
    return [Slot(name, share) for name in where]


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
    cell: Cell | None = None


@dataclass
class Outcome:
    """How a pool ended: the reason of each failed and each refused cell, by id."""

    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
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
    """

    def __init__(
        self,
        results: Path,
        cache: Path,
        run: RunSettings,
        places: Sequence[Slot],
        plugins: Sequence[str],
        watch: Watcher,
    ) -> None:
        self.results, self.cache, self.run_settings = results, cache, run
        self.places, self.plugins, self.watch = places, plugins, watch
        self.messages: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self.workers: list[_Worker] = []  # those whose output is open
        self.outcome = Outcome()

    def run(self, cells: Sequence[Cell]) -> Outcome:
        """Run the cells; a failed one does not stop the rest.

        Ctrl-C stops at a step boundary, after a checkpoint; a second one ends the workers at once.
        """
        waiting = deque(cells)
        try:
            for slot in self.places[: len(cells)]:
                self._start(slot)
            self._serve(waiting)
        except KeyboardInterrupt:
            self.outcome.interrupted = True
            self.watch(None, {"kind": "stopping"})
        finally:
            self._end()
        return self.outcome

    def _end(self) -> None:
        """Stop the workers and take in their last words."""
        try:
            for worker in self.workers:
                self._tell(worker, {"do": "stop"})
            self._serve(deque())
        except KeyboardInterrupt:
            for worker in self.workers:
                worker.process.kill()
            for worker in self.workers:
                worker.process.wait()
                if worker.cell is not None:
                    self.watch(worker.cell, {"kind": "interrupted"})

    def _serve(self, waiting: deque[Cell]) -> None:
        """Give out cells and take in messages until the last worker has ended."""
        while self.workers:
            worker, message = self.messages.get()
            if message is None:
                self._replace(worker, waiting)
                continue
            self.watch(worker.cell, message)
            kind = message["kind"]
            if kind == "progress":
                continue
            if kind in {"failed", "refused"} and worker.cell is not None:
                reasons = self.outcome.failed if kind == "failed" else self.outcome.refused
                reasons[worker.cell.id] = str(message["reason"])
            worker.cell = None
            if waiting:
                worker.cell = waiting.popleft()
                self._tell(worker, {"do": "run", "cell": worker.cell.model_dump(mode="json")})
                self.watch(worker.cell, {"kind": "started"})
            else:
                self._tell(worker, {"do": "stop"})

    def _replace(self, dead: _Worker, waiting: deque[Cell]) -> None:
        """Report the cell of a worker that ended; start another if there is work."""
        code = dead.process.wait()
        self.workers.remove(dead)
        if dead.cell is not None:
            reason = f"its worker ended with code {code}; see the end of {dead.log}"
            self.outcome.failed.setdefault(dead.cell.id, reason)
            self.watch(dead.cell, {"kind": "failed", "reason": reason})
        elif code != 0:
            raise UserError(f"a worker could not start (code {code}); see {dead.log}")
        if waiting:
            self._start(dead.slot)

    def _start(self, slot: Slot) -> None:
        settings = self.run_settings.model_copy(
            update={"device": slot.device, "threads": slot.threads}
        )
        folder = self.results / "runs" / ".logs"
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"worker-{os.getpid()}-{threading.get_native_id()}-{len(self.places)}.log"
        command = [*python(settings.gpus_per_cell), "-m", "mmbench.launch.worker"]
        command += ["--results", str(self.results), "--cache", str(self.cache)]
        command += ["--settings", settings.model_dump_json()]
        for plugin in self.plugins:
            command += ["--plugin", plugin]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(slot.threads),
            "MKL_NUM_THREADS": str(slot.threads),
            "PYTHONSAFEPATH": "1",  # torchrun does not hand -P on
        }
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
        worker = _Worker(slot, process, log)
        self.workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None  # opened with PIPE
        for line in worker.process.stdout:
            self.messages.put((worker, json.loads(line)))
        self.messages.put((worker, None))

    def _tell(self, worker: _Worker, message: dict[str, Any]) -> None:
        assert worker.process.stdin is not None  # opened with PIPE
        with contextlib.suppress(OSError):  # a dead worker is seen by its closed output
            worker.process.stdin.write(json.dumps(message) + "\n")
            worker.process.stdin.flush()
