"""How busy a grid of small cells keeps the cores: processor time over wall time and cores.

    python benchmarks/grid_busy.py
    python benchmarks/grid_busy.py --seeds 3 --into docs/performance.md

Runs ``mmbench run --methods all --datasets embedded`` in a temporary results folder.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mmbench.errors import MMBenchError, UserError
from mmbench.testing.command_line import Page, how_many, parser, script, table
from mmbench.training.environment import conditions

TARGET = 0.9


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser(__doc__, "--into")
    for name, usual in (("--methods", "all"), ("--datasets", "embedded")):
        arguments.add_argument(name, default=usual, help="as of mmbench run (default: %(default)s)")
    arguments.add_argument(
        "--seeds", type=how_many, default=3, help="how many (default: %(default)s)"
    )
    options = arguments.parse_args(argv)
    page = Page(options.into, "grid-busy")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "mmbench", "run", "--methods", options.methods]
        command += ["--datasets", options.datasets, "--seeds", str(options.seeds)]
        command += ["--device", "cpu", "--results", folder]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        wall = time.perf_counter() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cells = len(list(Path(folder).glob("runs/*/record.json")))
    if done.returncode:
        kind = UserError if done.returncode == 2 else MMBenchError
        raise kind(f"the run ended with code {done.returncode}: {done.stdout[-500:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cores = os.cpu_count() or 1
    busy = spent / wall / cores
    text = (
        f"`mmbench run --methods {options.methods} --datasets {options.datasets} --seeds "
        f"{options.seeds}`, start-up included.\n{conditions(torch.device('cpu'))}.\n"
        f"Target: more than {TARGET:.0%} busy: {'met' if busy > TARGET else 'missed'}.\n\n"
    ) + table(
        {"cells": "r", "wall (s)": "r", "processor (s)": "r", "cores": "r", "busy": "r"},
        [(str(cells), f"{wall:.0f}", f"{spent:.0f}", str(cores), f"{busy:.0%}")],
    )
    page.show(text)


if __name__ == "__main__":
    script(main)
