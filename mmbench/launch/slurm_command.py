"""Runs the commands of SLURM that tell or do something at once, and says why one did not."""

import re
import shutil
import subprocess

GONE = "Invalid job id"  # what SLURM says when it has forgotten all jobs that it is asked about


class NoAnswer(Exception):
    """SLURM is not here, or does not answer; the message says which."""


def answer(*command: str, patience: float) -> str:
    """Run a command of SLURM and return what it printed.

    Args:
        command: its words.
        patience: seconds to wait for it.

    Raises:
        NoAnswer: if it is not there, fails or takes too long.
    """
    name = command[0]
    if shutil.which(name) is None:
        raise NoAnswer(f"SLURM is not installed here (no {name})")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=patience
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{name} does not answer within {patience:.0f} s") from None
    if done.returncode and GONE not in done.stderr:
        raise NoAnswer(f"{name} does not answer: {reason(done.stderr)}")
    return done.stdout


def reason(text: str) -> str:
    """Return the last line of an error message of SLURM, without its prefix."""
    lines = [line for line in text.splitlines() if line.strip()] or ["no reason given"]
    return re.sub(r"^\w+: (error|fatal): ", "", lines[-1].strip())
