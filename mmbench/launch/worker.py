"""A long-lived worker process: cells come in as JSON lines, messages go out as JSON lines.

Started by the local pool. It imports torch once and then runs cell after cell. It ends when its
input closes (the pool is gone), after a checkpoint at the next step boundary.

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
from pathlib import Path
from typing import Any, TextIO

from mmbench.cell import Cell
from mmbench.errors import StopRequested, UserError
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
        _run(cell, results, cache, run, messages, stop, ranks)
    ranks.tell(None)


def _end_with(parent: int) -> None:
    """End at once when torchrun, which looks after the processes of a cell, is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _run(
    cell: Cell,
    results: Path,
    cache: Path,
    run: RunSettings,
    messages: Messages,
    stop: threading.Event,
    ranks: Ranks,
) -> None:
    directory = Store(results).directory(cell)
    hooks = Hooks(
        stop=stop.is_set,
        progress=lambda values: _progress(directory, cell, values, messages),
        checkpoint_seconds=run.checkpoint_seconds,
    )
    try:
        record = run_cell(cell, results=results, cache=cache, run=run, hooks=hooks, ranks=ranks)
        messages.send(
            kind=record.status,
            id=cell.id,
            reason=record.reason or (record.failure.message if record.failure else None),
        )
    except StopRequested:
        messages.send(kind="interrupted", id=cell.id)
    except UserError as err:
        messages.send(kind="failed", id=cell.id, reason=str(err))
    except OSError as err:
        messages.send(
            kind="failed",
            id=cell.id,
            reason=f"cannot write to {results}: {err.strerror or err}; make room or fix "
            "permissions and run again: finished work is kept",
        )
    except SystemExit:
        raise  # the other processes of the cell are lost: the pool sees the end and starts again
    except BaseException:
        messages.send(kind="failed", id=cell.id, reason=traceback.format_exc())
        raise


def _progress(
    directory: RunDirectory, cell: Cell, values: dict[str, Any], messages: Messages
) -> None:
    messages.send(kind="progress", id=cell.id, **values)
    directory.write_progress(pid=os.getpid(), **values)


if __name__ == "__main__":
    main()
