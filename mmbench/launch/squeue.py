"""SLURM's own word on jobs, from ``squeue`` and ``scancel``: neither needs accounting."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mmbench.launch.slurm_command import NoAnswer, answer

PATIENCE = 10.0  # seconds; SLURM's own tools give up after about as long
AT_ONCE = 500  # job ids in one command


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


def ask(ids: Iterable[str]) -> Answer:
    """Ask SLURM about jobs by the ids they were submitted under; it is not asked about none."""
    wanted = list(ids)
    jobs: list[Job] = []
    try:
        for some in (wanted[i : i + AT_ONCE] for i in range(0, len(wanted), AT_ONCE)):
            listed = ("squeue", "-h", "-j", ",".join(some), "-o", "%i|%T|%N|%L|%r")
            told = answer(*listed, patience=PATIENCE)
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
        answer("scancel", "--quiet", *which, *some, patience=PATIENCE)
