"""A long-lived worker process: cells come in as JSON lines, messages go out as JSON lines.

Started by the local pool. It imports torch once and then runs cell after cell. It ends when its
input closes (the pool is gone), after a checkpoint at the next step boundary; SIGTERM and SIGUSR1
ask for the same. A cell that came with a lease is let go, without a checkpoint or a record, once
another worker has taken it over.

Under torchrun it is one of several processes that run each cell together. The first speaks to the
pool; the others hear of a cell from it.
"""

import argparse
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from mmbench.cell import Cell
from mmbench.errors import Busy, LeaseLost, StopRequested, UserError
from mmbench.launch import lease as leases
from mmbench.launch.lease import Lease
from mmbench.launch.local import HELD_BACK
from mmbench.own.dataset import discover
from mmbench.plugins import load_plugin
from mmbench.ranks.group import Ranks, join
from mmbench.settings import RunSettings
from mmbench.store import RunDirectory, Store
from mmbench.training.run_cell import follow_cell, run_cell
from mmbench.training.trainer import Hooks


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
    messages = Messages(out, stop)
    for number in HELD_BACK:
        signal.signal(number, lambda number, frame: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    for plugin in given.plugin:
        load_plugin(plugin)
    discover(Path(given.cache))
    run = RunSettings.model_validate_json(given.settings)
    ranks, device = join(run.device)
    run = run.model_copy(update={"device": device, "gpus_per_cell": ranks.size})
    results, cache = Path(given.results), Path(given.cache)
    if ranks.size > 1:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if not ranks.first:
        out.close()
        while (told := ranks.hear()) is not None:
            follow_cell(
                Cell.model_validate_json(told), results=results, cache=cache, run=run, ranks=ranks
            )
        return
    work: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_listen, args=(stop, work), daemon=True).start()
    messages.send(kind="ready")
    while (message := work.get()) is not None and not stop.is_set():
        cell = Cell.model_validate(message["cell"])
        directory = Store(Path(given.results)).directory(cell)
        held = Lease(directory.path, message["lease"]) if message["lease"] else None
        hooks = Hooks(
            stop=_Stop(stop, held).asked,
            progress=partial(_progress, directory, cell, messages),
            checkpoint_seconds=run.checkpoint_seconds,
            before_record=held.check if held else lambda: None,
        )
        with suppress(OSError):  # a full disk
            print(f"== {cell.folder}", file=sys.stderr, flush=True)  # whose lines follow
        _run(cell, held, results, cache, run, messages, hooks, ranks)
    ranks.tell(None)


def _end_with(parent: int) -> None:
    """End at once when torchrun, which looks after the processes of a cell, is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class _Stop:
    """Says at each step whether to stop, and looks at the lease now and then."""

    def __init__(self, event: threading.Event, held: Lease | None) -> None:
        self.event, self.held = event, held
        owner = held.owner if held else None
        self.every = (owner.seconds if owner else leases.SECONDS) / leases.BEATS
        self.looked = time.monotonic()

    def asked(self) -> bool:
        """Say whether the pool asked to stop.

        Raises:
            LeaseLost: if the cell is another worker's now.
        """
        if self.held and time.monotonic() - self.looked >= self.every:
            self.looked = time.monotonic()
            self.held.check()
        return self.event.is_set()


def _run(
    cell: Cell,
    held: Lease | None,
    results: Path,
    cache: Path,
    run: RunSettings,
    messages: Messages,
    hooks: Hooks,
    ranks: Ranks,
) -> None:
    say = partial(messages.send, id=cell.id)
    try:
        _leave_to_others(Store(results).directory(cell).path, held)
        record = run_cell(cell, results=results, cache=cache, run=run, hooks=hooks, ranks=ranks)
        failure = record.failure.message if record.failure else None
        say(kind=record.status, reason=record.reason or failure, recorded=True)
    except LeaseLost as err:
        say(kind="failed", reason=str(err), again="lost")
    except StopRequested:
        say(kind="interrupted")
    except UserError as err:
        say(kind="failed", reason=str(err), again="busy" if isinstance(err, Busy) else None)
    except OSError as err:
        say(
            kind="failed",
            reason=f"cannot write to {results}: {err.strerror or err}; make room or fix "
            "permissions and run again: finished work is kept",
            again="full",
        )
    except SystemExit:
        raise  # the other processes of the cell are lost: the pool sees the end and starts again
    except BaseException:
        say(kind="failed", reason=traceback.format_exc())
        raise


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
    directory: RunDirectory, cell: Cell, messages: Messages, values: dict[str, Any]
) -> None:
    messages.send(kind="progress", id=cell.id, **values)
    directory.write_progress(pid=os.getpid(), **values)


if __name__ == "__main__":
    main()
