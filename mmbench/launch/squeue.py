"""SLURM's own word on jobs, from ``squeue`` and ``scancel``: neither needs accounting."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

PATIENCE = 10.0  # seconds; SLURM's own tools give up after about as long
GONE = "Invalid job id"  # what squeue says when it has forgotten all jobs that it is asked about
AT_ONCE = 500  # job ids in one command


class NoAnswer(Exception):
    """SLURM is not here, or does not answer; the message says which."""


@dataclass(frozen=True)
class Job:
    """One job, or all waiting ones of an array, as ``squeue`` has it.

    Attributes:
        id: ``17``, ``17_3``, or ``17_[4-9]`` for those that wait.
        state: ``RUNNING``, ``PENDING``, ...
        node: where it runs; empty if it does not.
        left: time left until its limit, as SLURM writes it.
        reason: why it waits.
    """

    id: str
    state: str
    node: str
    left: str
    reason: str

    @property
    def array(self) -> str:
        """The id that it was submitted under."""
        return self.id.partition("_")[0]


@dataclass(frozen=True)
class Answer:
    """What SLURM says.

    Attributes:
        jobs: those it knows; finished ones are soon forgotten.
        silence: why there is no answer; empty if there is one.
    """

    jobs: Sequence[Job] = ()
    silence: str = ""
    by_id: dict[str, Job] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {job.id: job for job in self.jobs})


def _said(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()] or ["no reason given"]
    return re.sub(r"^\w+: (error|fatal): ", "", lines[-1].strip())


def _run(*command: str) -> str:
    """Run a command of SLURM and return what it printed.

    Raises:
        NoAnswer: if it is not there, fails or takes too long.
    """
    name = command[0]
    if shutil.which(name) is None:
        raise NoAnswer(f"SLURM is not installed here (no {name})")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{name} does not answer within {PATIENCE:.0f} s") from None
    if done.returncode and GONE not in done.stderr:
        raise NoAnswer(f"{name} does not answer: {_said(done.stderr)}")
    return done.stdout


def ask(ids: Iterable[str]) -> Answer:
    """Ask SLURM about jobs by the ids they were submitted under; it is not asked about none."""
    wanted = list(ids)
    jobs: list[Job] = []
    try:
        for some in (wanted[i : i + AT_ONCE] for i in range(0, len(wanted), AT_ONCE)):
            told = _run("squeue", "-h", "-j", ",".join(some), "-o", "%i|%T|%N|%L|%r")
            jobs += [Job(*line.split("|", 4)) for line in told.splitlines() if line.count("|") >= 4]
    except NoAnswer as err:
        return Answer(silence=str(err))
    return Answer(jobs)


def cancel(ids: Iterable[str], *, waiting_only: bool) -> None:
    """Cancel jobs.

    Args:
        ids: as they were submitted.
        waiting_only: leave alone those that run: they stop by themselves, after a checkpoint.

    Raises:
        NoAnswer: as the message says.
    """
    which = ["--state=PENDING"] if waiting_only else []
    wanted = list(ids)
    for some in (wanted[i : i + AT_ONCE] for i in range(0, len(wanted), AT_ONCE)):
        _run("scancel", "--quiet", *which, *some)
