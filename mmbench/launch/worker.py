"""A long-lived worker process: cells come in as JSON lines, messages go out as JSON lines.

Started by the local pool. It imports torch once and then runs cell after cell. It ends when its
input closes (the pool is gone), after a checkpoint at the next step boundary; SIGTERM and SIGUSR1
ask for the same. A cell that came with a lease is let go, without a checkpoint or a record, once
another worker has taken it over; one that was cancelled, after a checkpoint.

Under torchrun it is one of several processes that run each cell together. The first speaks to the
pool; the others hear of a cell from it.
"""

import argparse
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from mmbench.cell import Cell
from mmbench.errors import Busy, LeaseLost, StopRequested, UserError
from mmbench.launch import lease as leases
from mmbench.launch import log
from mmbench.launch.lease import Lease
from mmbench.launch.local import HELD_BACK
from mmbench.plugins import make_known
from mmbench.ranks.group import Ranks, join
from mmbench.settings import RunSettings, slurm_job
from mmbench.store import RunDirectory, Store
from mmbench.training.device import begin, choose
from mmbench.training.run_cell import follow_cell, run_cell
from mmbench.training.trainer import Hooks

LOOK_EVERY = 2.0  # seconds between two looks for the marker of a cell that is cancelled


@dataclass(frozen=True)
class Here:
    """What is the same for every cell of this process.

    Attributes:
        results: the results folder.
        cache: the folder of prepared data.
        run: settings of this machine.
        ranks: the processes that run each cell together.
    """

    results: Path
    cache: Path
    run: RunSettings
    ranks: Ranks


class Messages:
    """Sends messages to the pool; a broken pipe asks for a stop."""

    def __init__(self, out: TextIO, stop: threading.Event) -> None:
        self.out, self.stop = out, stop

    def send(self, **values: Any) -> None:  # Any: JSON values
        """Write one line."""
        try:
            self.out.write(json.dumps(values) + "\n")
            self.out.flush()
        except OSError:
            self.stop.set()


def _listen(stop: threading.Event, work: "queue.Queue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "stop":
            stop.set()
            break
        work.put(message)
    else:
        stop.set()  # the input closed without a word: the pool is gone
        time.sleep(leases.GRACE)  # time for a checkpoint at a step boundary
        os._exit(1)
    work.put(None)


def main() -> None:
    """Run cells until told to stop."""
    try:
        _work()
    except SystemExit as err:
        sys.stderr.flush()
        os._exit(int(err.code or 0))  # without waiting for messages to processes that are gone


def _work() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--results", "--cache", "--settings"):
        parser.add_argument(name, required=True)
    parser.add_argument("--plugin", action="append", default=[])
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pool's to handle
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stray prints of libraries go to the log, not into the protocol
    stop = threading.Event()
    for number in HELD_BACK:
        signal.signal(number, lambda number, frame: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    make_known(given.plugin, Path(given.cache))
    run = RunSettings.model_validate_json(given.settings)
    ranks, device = join(run.device)
    run = run.model_copy(update={"device": device, "gpus_per_cell": ranks.size})
    here = Here(Path(given.results), Path(given.cache), run, ranks)
    if ranks.size > 1:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if ranks.first:
        _serve(here, Messages(out, stop), stop)
    else:
        out.close()
        _follow(here)
    ranks.leave()


def _follow(here: Here) -> None:
    """Run the cells that the first process tells of, until it says that there are no more."""
    while (told := here.ranks.hear()) is not None:
        follow_cell(
            Cell.model_validate_json(told),
            results=here.results, cache=here.cache, run=here.run, ranks=here.ranks,
        )  # fmt: skip


def _serve(here: Here, messages: Messages, stop: threading.Event) -> None:
    """Run the cells that the pool sends, until it says that there are no more."""
    work: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_listen, args=(stop, work), daemon=True).start()
    begin(choose(here.run.device))
    messages.send(kind="ready")
    place = {"pid": os.getpid(), "host": socket.gethostname(), "job": slurm_job()}
    while (message := work.get()) is not None:
        cell = Cell.model_validate(message["cell"])
        if stop.is_set():  # it was handed out in the moment of the stop
            messages.send(id=cell.id, kind="interrupted")
            break
        directory = Store(here.results).directory(cell)
        held = Lease(directory.path, message["lease"]) if message["lease"] else None
        hooks = Hooks(
            stop=_Stop(stop, directory, held).asked,
            progress=partial(_progress, directory, cell, messages, place),
            checkpoint_seconds=here.run.checkpoint_seconds,
            before_record=held.check if held else lambda: None,
        )
        log.mark(cell.folder)
        log.say(f"begins on {place['host']}, process {place['pid']}, job {place['job'] or 'none'}")
        _run(cell, directory, held, hooks, here, messages)
    here.ranks.tell(None)


def _end_with(parent: int) -> None:
    """End at once when torchrun, which looks after the processes of a cell, is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class _Stop:
    """Says at each step whether to stop, and looks at the run directory now and then."""

    def __init__(self, event: threading.Event, directory: RunDirectory, held: Lease | None) -> None:
        self.event, self.directory, self.held = event, directory, held
        owner = held.owner if held else None
        self.every = (owner.seconds if owner else leases.SECONDS) / leases.BEATS
        self.checked = self.looked = time.monotonic()
        self.cancelled = False

    def asked(self) -> bool:
        """Say whether the pool asked to stop, or the cell was cancelled.

        Raises:
            LeaseLost: if the cell is another worker's now.
        """
        now = time.monotonic()
        if self.held and now - self.checked >= self.every:
            self.checked = now
            self.held.check()
        if now - self.looked >= LOOK_EVERY:
            self.looked = now
            self.cancelled = self.directory.cancelled
        return self.cancelled or self.event.is_set()


def _run(
    cell: Cell,
    directory: RunDirectory,
    held: Lease | None,
    hooks: Hooks,
    here: Here,
    messages: Messages,
) -> None:
    def say(kind: str, **more: Any) -> None:  # Any: JSON values
        reason = more.get("reason")
        log.say(f"{kind}: {reason}" if reason else kind)
        messages.send(id=cell.id, kind=kind, **more)

    try:
        _leave_to_others(directory.path, held)
        if directory.cancelled:
            raise StopRequested
        record = run_cell(
            cell,
            results=here.results, cache=here.cache, run=here.run, hooks=hooks, ranks=here.ranks,
        )  # fmt: skip
        failure = record.failure.message if record.failure else None
        say(kind=record.status, reason=record.reason or failure, recorded=True)
    except LeaseLost as err:
        say(kind="failed", reason=str(err), again="lost")
    except StopRequested:
        say(kind="interrupted", cancelled=directory.cancelled)
    except UserError as err:
        say(kind="failed", reason=str(err), again="busy" if isinstance(err, Busy) else None)
    except OSError as err:
        say(
            kind="failed",
            reason=f"cannot write to {here.results}: {err.strerror or err}; make room or fix "
            "permissions and run again: finished work is kept",
            again="full",
        )
    except SystemExit:
        raise  # the other processes of the cell are lost: the pool sees the end and starts again
    except Exception:
        say(kind="failed", reason=traceback.format_exc())


def _leave_to_others(folder: Path, held: Lease | None) -> None:
    """Refuse a cell that a worker of some sweep holds.

    Raises:
        Busy: with the worker's machine.
    """
    found = leases.live(folder, leases.names(folder))
    if found and found != held:
        where = f"{found.owner.worker} on {found.owner.host}" if found.owner else "a worker"
        raise Busy(f"{where} is running {folder.name}; wait for it, or mmbench cancel")


def _progress(
    directory: RunDirectory,
    cell: Cell,
    messages: Messages,
    place: dict[str, Any],
    values: dict[str, Any],
) -> None:
    messages.send(kind="progress", id=cell.id, **values)
    if "warning" in values:
        log.say(f"warning: {values['warning']}")
        return
    directory.write_progress(**place, **values)
    if "metrics" in values:
        scores = " ".join(f"{name} {100 * v:.1f}" for name, v in values["metrics"].items())
        seconds = f"{values['seconds_per_epoch']:.1f} s"
        epoch = f"epoch {values['epoch'] + 1}/{values['epochs']}"
        log.say(f"{epoch}: {values['split']} {scores}, {seconds}")


if __name__ == "__main__":
    main()
