"""What a sweep of many cells costs: claims, files, and the time of status and collect.

    python benchmarks/scale.py --cells 1000
    python benchmarks/scale.py --cells 1000 10000 100000 --into docs/scale.md

The cells are stubs: a worker claims one as in a real sweep, writes a reference record in place of
training, and lets go of it. Everything happens in a temporary folder (``--folder``: below which).
With ``--into`` the tables replace what stands between the two marks of that file.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from mmbench.launch import lease as leases
from mmbench.launch import sweepfolder
from mmbench.launch.claims import Claims
from mmbench.launch.lease import Owner
from mmbench.launch.sweepfolder import Facts, SweepFolder, open_sweep
from mmbench.store import iter_records
from mmbench.testing.command_line import Page, how_many_from, parser, script
from mmbench.training.device import describe
from mmbench.training.environment import commit

REFERENCE = Path(__file__).parents[1] / "results" / "records"
WORKERS = 8  # processes that claim side by side
LATE = 0.9  # the share that is done when one more worker joins
FEWEST = 10 * WORKERS  # cells of which LATE, divided among the workers, leaves some
SCAN = """
import sys, time
from pathlib import Path
from mmbench.survey import survey
begun = time.perf_counter()
survey(Path(sys.argv[1]))
print(time.perf_counter() - begun)
"""
# Audit events of a claim and its end: what reaches the file server, reads of sizes apart.
EVENTS = ("open", "os.listdir", "os.link", "os.mkdir", "os.remove", "os.rename", "os.utime")


def make(results: Path, number: int) -> tuple[SweepFolder, bytes]:
    """Make a sweep of ``number`` stub cells; return it with the record that they get."""
    done = next(r for r in iter_records(REFERENCE) if r.status == "done")
    cells = [done.cell.model_copy(update={"seed": seed}) for seed in range(number)]
    record = json.dumps(done.model_dump(mode="json", exclude_none=True)).encode()
    return sweepfolder.create(results, cells, Facts(cache="unused")), record


def work(path: Path, worker: str, at_most: int) -> None:
    """Claim and finish stub cells; print how many, and seconds: in all, claiming, computing."""
    sweep = open_sweep(path)
    record = (path / "stub").read_bytes()
    claims = Claims(sweep, Owner(worker=worker, host="here"))
    spent: list[float] = []
    busy = 0.0
    begun = time.perf_counter()
    while len(spent) < at_most:
        start, before = time.perf_counter(), time.process_time()
        task = claims.take(path / "log")
        taken, busy = time.perf_counter(), busy + time.process_time() - before
        if task is None:
            break
        assert task.lease is not None
        (task.lease.folder / "cell.json").write_text(task.cell.model_dump_json())
        (task.lease.folder / "record.json").write_bytes(record)
        written, before = time.perf_counter(), time.process_time()
        claims.ended(task, {"kind": "done"})
        busy += time.process_time() - before
        spent.append(taken - start + time.perf_counter() - written)
    wall = time.perf_counter() - begun
    print(json.dumps({"claims": len(spent), "wall": wall, "spent": sum(spent), "busy": busy}))


def crowd(sweep: SweepFolder, workers: int, at_most: int) -> dict[str, float]:
    """Let processes work side by side; return what they did together."""
    command = [sys.executable, "-P", __file__, "--work", str(sweep.path)]
    running = [
        subprocess.Popen([*command, f"w{i}", str(at_most)], stdout=subprocess.PIPE, text=True)
        for i in range(workers)
    ]
    told = [json.loads(process.communicate()[0]) for process in running]
    assert not any(process.returncode for process in running)
    claims = sum(each["claims"] for each in told)
    return {
        "claims": claims,
        "rate": claims / max(each["wall"] for each in told),
        "milliseconds": 1000 * sum(each["spent"] for each in told) / claims,
        "busy": 1000 * sum(each["busy"] for each in told) / claims,
    }


def events(results: Path) -> dict[str, int]:
    """Count the file operations of one claim and its end."""
    sweep, record = make(results, 2)
    claims = Claims(sweep, Owner(worker="w"))
    claims.ended(_stub(claims, record), {"kind": "done"})  # the first makes shared files
    seen: dict[str, int] = {}
    counting = [True]

    def note(event: str, arguments: tuple[Any, ...]) -> None:  # Any: as each event has them
        if counting[0] and event in EVENTS:
            seen[event] = seen.get(event, 0) + 1

    sys.addaudithook(note)
    task = claims.take(results)
    counting[0] = False
    assert task is not None and task.lease is not None
    (task.lease.folder / "record.json").write_bytes(record)
    counting[0] = True
    claims.ended(task, {"kind": "done"})
    counting[0] = False
    return seen


def _stub(claims: Claims, record: bytes) -> Any:  # Any: a task
    task = claims.take(Path())
    assert task is not None and task.lease is not None
    (task.lease.folder / "record.json").write_bytes(record)
    return task


def seconds(*command: str) -> float:
    """Return the wall time of a command that must succeed."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def measure(results: Path, number: int) -> dict[str, float]:
    """Return all measurements of a sweep of ``number`` cells."""
    begun = time.perf_counter()
    sweep, record = make(results, number)
    found = {"cells": number, "make": time.perf_counter() - begun}
    (sweep.path / "stub").write_bytes(record)
    first = int(LATE * number)
    alone = crowd(sweep, 1, first // 2)
    many = crowd(sweep, WORKERS, -(-(first - first // 2) // WORKERS))
    found |= {
        "alone": alone["rate"],
        "milliseconds": alone["milliseconds"],
        "busy": alone["busy"],
        "many": many["rate"],
    }
    begun = time.perf_counter()
    late = Claims(open_sweep(sweep.path), Owner(worker="late"))
    opened = time.perf_counter()
    task = late.take(results)
    found |= {"open": opened - begun, "late": time.perf_counter() - opened}
    assert task is not None and task.lease is not None
    task.lease.finish("released")
    rest = crowd(sweep, WORKERS, number)
    found["rest"] = rest["rate"]
    runs = [entry for entry in os.scandir(results / "runs") if entry.is_dir()]
    held = [file for run in runs for file in os.scandir(run.path)]
    assert len(runs) == number and alone["claims"] + many["claims"] + rest["claims"] == number
    found["inodes"] = (len(runs) + len(held)) / number
    found["bytes"] = sum(file.stat().st_blocks * 512 for file in held) / number
    found["list"] = (sweep.path / "cells.jsonl").stat().st_size / 2**20
    done = subprocess.run([sys.executable, "-P", "-c", SCAN, str(results)], check=True,
                          capture_output=True, text=True)  # fmt: skip
    found["scan"] = float(done.stdout)
    mmbench = (sys.executable, "-P", "-m", "mmbench")
    told = ("--results", str(results))
    found["status"] = statistics.median(seconds(*mmbench, "status", *told) for _ in range(3))
    found["collect"] = seconds(*mmbench, "collect", *told)
    for run in sorted(runs, key=lambda entry: entry.name)[::100]:
        (results / "records" / f"{run.name}.json").unlink()
    found["more"] = seconds(*mmbench, "collect", *told)
    found["again"] = statistics.median(seconds(*mmbench, "collect", *told) for _ in range(3))
    found["compress"] = seconds(*mmbench, "collect", "--compress", *told)
    return found


ROWS = (
    ("make the sweep folder, s", "make", "{:.1f}"),
    ("list of cells, MiB", "list", "{:.1f}"),
    ("a worker opens it, s", "open", "{:.2f}"),
    ("claims per second, one worker", "alone", "{:.0f}"),
    ("a claim and its end, ms", "milliseconds", "{:.2f}"),
    ("of that, time of a core, ms", "busy", "{:.2f}"),
    (f"claims per second, {WORKERS} workers together", "many", "{:.0f}"),
    (f"first claim of a worker that joins at {LATE:.0%} done, s", "late", "{:.3f}"),
    (f"claims per second, {WORKERS} workers that join then", "rest", "{:.0f}"),
    ("inodes per finished cell", "inodes", "{:.1f}"),
    ("KiB on the disk per finished cell", "kib", "{:.0f}"),
    ("look at the state of every cell, s", "scan", "{:.1f}"),
    ("`mmbench status`, s", "status", "{:.1f}"),
    ("`mmbench collect`, the first time, s", "collect", "{:.1f}"),
    ("`mmbench collect`, one record in a hundred new, s", "more", "{:.1f}"),
    ("`mmbench collect`, nothing new, s", "again", "{:.1f}"),
    ("`mmbench collect --compress` of all, s", "compress", "{:.1f}"),
)


def tables(found: Sequence[dict[str, float]], counted: dict[str, int], where: str) -> str:
    """Return the tables with their conditions."""
    import torch

    sha, _ = commit()
    heads = " | ".join(f"{row['cells']:,}" for row in found)
    lines = [
        f"{describe(torch.device('cpu'))}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} "
        f"at the end, {where}, {date.today().isoformat()}, commit {str(sha)[:10]}. Stub cells; "
        "a worker's rate covers the claim, the stub's two files and the end.",
        "",
        f"| cells | {heads} |",
        "| :-- |" + " --: |" * len(found),
    ]
    for title, key, form in ROWS:
        values = [row | {"kib": row["bytes"] / 1024} for row in found]
        lines.append(f"| {title} | {' | '.join(form.format(row[key]) for row in values)} |")
    lines += ["", "File operations of one claim and its end (reads of sizes and times apart): "
              + ", ".join(f"{n} {name.removeprefix('os.')}" for name, n in sorted(counted.items()))
              + ".", "", *load()]  # fmt: skip
    return "\n".join(lines) + "\n"


def load(workers: int = 200) -> list[str]:
    """Return what that many workers ask of the file server and of SLURM, by the rules alone."""
    beat = leases.SECONDS / leases.BEATS
    return [
        f"{workers} workers with one cell each touch {workers / beat:.0f} leases and look for "
        f"`cancelled` {workers / 5:.0f} times a second; SLURM holds {workers} array tasks, "
        "however many cells there are.",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser(__doc__, "--into")
    arguments.add_argument(
        "--cells", type=how_many_from(FEWEST), nargs="+", default=[1000, 10_000],
        help="numbers of cells (default: 1000 10000)",
    )  # fmt: skip
    arguments.add_argument(
        "--folder", type=Path, help="make the temporary one in there (default: the system's)"
    )
    arguments.add_argument("--work", nargs=3, help=SUPPRESS)  # how a worker is started
    options = arguments.parse_args(argv)
    page = Page(options.into, "scale")
    if options.work:
        work(Path(options.work[0]), options.work[1], int(options.work[2]))
        return
    found = []
    for number in options.cells:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found.append(measure(Path(folder), number))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True,
                              check=False).stdout.strip()  # fmt: skip
        text = tables(found, events(Path(folder)), f"local disk ({kind or 'unknown'})")
    page.show(text)


if __name__ == "__main__":
    script(main)
