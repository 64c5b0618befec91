"""What a job of SLURM runs: the claimer; warned with work left, it goes back into the queue.

SIGUSR1 is the warning before the time limit or a preemption. SIGTERM is an end that SLURM decided
on: the claimer stops in the same way, and whether the job comes again is SLURM's to say.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from mmbench.errors import UserError
from mmbench.settings import slurm_job


def main() -> int:
    """Work on the sweep named by ``--sweep``; return the exit code."""
    warned = threading.Event()
    # Before the imports below, which take seconds: a warning must not be deadly.
    signal.signal(signal.SIGUSR1, lambda number, frame: warned.set())
    from mmbench.launch.claimer import LEFT, work

    _, path = sys.argv[1:]  # --sweep PATH, as the batch script has it
    job = slurm_job() or ""
    print(f"job {job} on {os.environ.get('SLURMD_NODENAME', '?')}", flush=True)
    try:
        code = work(Path(path), warned=warned, thorough=False)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    if code == LEFT and warned.is_set():
        return _requeue(job)
    return code


def _requeue(job: str) -> int:
    """Ask SLURM to start this job again.

    Args:
        job: as ``17_3``: the plain number of one job of an array can be that of the whole array.
    """
    for number in (signal.SIGUSR1, signal.SIGTERM):  # SLURM ends the job as it requeues it
        signal.signal(number, signal.SIG_IGN)
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False
        )
        failed = done.stderr.strip() if done.returncode else ""
    except OSError as err:
        failed = str(err)
    if failed:
        print(f"error: cannot requeue: {failed}; other workers do the rest", file=sys.stderr)
        return 1
    print("back in the queue", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
