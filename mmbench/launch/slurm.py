"""Submit workers to SLURM through submitit: arrays of jobs that claim cells of a sweep folder.

The jobs run our own command instead of submitit's pickled function: the warning before the time
limit then reaches the process that can stop at a step boundary, and a job is put back into the
queue as long as there is work, not a number of times.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.errors import UserError
from mmbench.launch.profile import Profile, Resources
from mmbench.launch.slurm_command import NoAnswer, answer, reason
from mmbench.record import now

if TYPE_CHECKING:
    from submitit import SlurmExecutor

PATIENCE = 60.0  # seconds: submitting must not fail because the controller is busy
ARRAY_LIMIT = 1001  # SLURM's own default of MaxArraySize
# What a job has in its environment and a job submitted from inside it must not inherit.
OF_A_JOB = (
    "SLURM_",
    "SLURMD_",
    "SUBMITIT_",
    "PMI",
    "CUDA_VISIBLE_",
    "ROCR_VISIBLE_",
    "GPU_DEVICE_",
)
# SLURM's variables that say where the cluster is, not which job this is.
OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS")
# Where the variable that overrules an option is not called like it.
NAMED_OTHERWISE = {"time": "TIMELIMIT", "array": "ARRAY_INX", "mem": "MEM_PER_NODE"}
SAID_ALWAYS = {"array", "output", "error", "open_mode", "signal", "no_requeue"}


@dataclass(frozen=True)
class Job:
    """A submitted array.

    Attributes:
        id: SLURM's id of the array.
        workers: how many jobs it has.
    """

    id: str
    workers: int


def _ask(*command: str) -> str:
    """Return what a command of SLURM says.

    Raises:
        UserError: if SLURM is not installed here or does not answer.
    """
    try:
        return answer(*command, patience=PATIENCE)
    except NoAnswer as err:
        raise UserError(
            f"{err}; run this on a login node of the cluster, or without --cluster to run here"
        ) from err


def array_limit() -> int:
    """Return how many jobs an array may have: ``MaxArraySize``, as the cluster says."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
    limit = int(found[1]) if found else ARRAY_LIMIT
    if limit < 1:
        raise UserError("this cluster allows no arrays of jobs (MaxArraySize is 0)")
    return limit


def hosts(partition: str | None) -> list[str]:
    """Return the machines of a partition, or of the default one; none if there is none such."""
    found: dict[str, set[str]] = {}
    for line in _ask("sinfo", "-h", "-N", "-o", "%P %n").splitlines():
        name, host = line.split()
        found.setdefault(name, set()).add(host)
    wanted = partition.split(",") if partition else [n for n in found if n.endswith("*")]
    machines = [found.get(name, found.get(f"{name}*", set())) for name in wanted]
    return sorted(set().union(*machines))


def chunks(workers: int, limit: int) -> list[int]:
    """Return the sizes of the arrays for ``workers`` jobs, none above ``limit``, nearly equal."""
    count = -(-workers // limit)
    each, more = divmod(workers, count)
    return [each + (i < more) for i in range(count)]


def _executor(profile: Profile, wanted: Resources, sweep: Path) -> "SlurmExecutor":
    """Return submitit's executor with everything but the size of the array.

    Raises:
        UserError: if submitit is not installed.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError as err:
        raise UserError("submitting needs submitit; pip install 'mmbench[slurm]'") from err

    class Executor(SlurmExecutor):
        """submitit's, which a script can be written with where SLURM is not installed."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = Executor(sweep / "logs")
    code = shlex.quote(str(sweep / "code"))
    lines = [
        f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"cd {code}",
    ]
    given: dict[str, Any] = {  # Any: submitit takes texts, numbers and lists
        "job_name": "mmbench",
        "partition": wanted.partition,
        "time": wanted.time,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": wanted.cpus,
        "gpus_per_node": wanted.gpus or None,
        "mem": wanted.mem,
        "account": profile.account,
        "wckey": None,
        # A warning that comes before Python listens must not end the job.
        "setup": ["trap '' USR1", *profile.setup, *lines],
        "stderr_to_stdout": True,
        "use_srun": False,
        "additional_parameters": {
            # B: to the claimer alone; its children stop when it tells them.
            "signal": f"B:USR1@{profile.warn}",
            "requeue": True,
            # As submitit writes them, so that job-name, say, replaces its job_name.
            **{key.replace("-", "_"): value for key, value in profile.slurm.items()},
        },
    }
    executor.update_parameters(**{key: v for key, v in given.items() if v is not None})
    executor.parameters["wckey"] = None  # submitit's default is its own name
    return executor


def _command(sweep: Path) -> str:
    words = [sys.executable, "-P", "-u", "-m", "mmbench.launch.slurm_job", "--sweep", str(sweep)]
    return f"exec {shlex.join(words)}"  # the job's one process: signals of SLURM reach it


def script(profile: Profile, wanted: Resources, sweep: Path, workers: int) -> str:
    """Return the batch script for an array of ``workers`` jobs."""
    executor = _executor(profile, wanted, sweep)
    executor.parameters |= {"map_count": workers, "array_parallelism": workers}
    return executor._make_submission_file_text(_command(sweep), "")


def submit(
    profile: Profile, wanted: Resources, sweep: Path, workers: int, limit: int
) -> tuple[list[Job], str]:
    """Submit ``workers`` jobs that claim cells of ``sweep``, in arrays of up to ``limit``.

    Returns:
        The arrays, and why there are not more of them: an empty text if all were accepted.

    Raises:
        UserError: if SLURM accepts none.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _executor(profile, wanted, sweep)
    jobs: list[Job] = []
    for size in chunks(workers, limit):
        executor.parameters |= {"map_count": size, "array_parallelism": size}
        try:
            with _outside_of_jobs(executor.parameters):
                made = executor._submit_command(_command(sweep))
        except (FailedJobError, FailedSubmissionError) as err:
            why = reason(str(err))
            if jobs:  # workers claim cells, so fewer of them do the same work
                return jobs, why
            raise UserError(_refusal(why)) from err
        jobs.append(Job(made.job_id, size))
        with (sweep / "jobs.jsonl").open("a", encoding="utf-8") as file:
            line = {"job": made.job_id, "array": size, "time": now()}
            file.write(json.dumps({**line, "resources": wanted.model_dump()}) + "\n")
    return jobs, ""


def _refusal(why: str) -> str:
    if "partition" in why.lower():
        names = ", ".join(sorted(set(_ask("sinfo", "-h", "-o", "%R").split())))
        return f"SLURM refused the job: {why}; partitions here: {names} (--partition)"
    return (
        f"SLURM refused the job: {why}; mend the options or the profile (--dry-run shows the "
        "batch script)"
    )


@contextmanager
def _outside_of_jobs(said: dict[str, Any]) -> Iterator[None]:
    """Hide what a job left in the environment, and what would overrule the batch script."""
    keys = {key.replace("-", "_") for key in [*said, *said["additional_parameters"]]}
    overruling = {f"SBATCH_{NAMED_OTHERWISE.get(key, key.upper())}" for key in keys | SAID_ALWAYS}
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name in overruling or (name.startswith(OF_A_JOB) and name not in OF_THE_CLUSTER)
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def workers_for(cells: int, at_once: int, most: int) -> int:
    """Return how many jobs to ask for when each runs ``at_once`` cells at a time."""
    return max(1, min(most, -(-cells // at_once)))


def groups(profile: Profile, datasets: Sequence[str]) -> dict[Resources, list[str]]:
    """Return the datasets that ask for the same resources."""
    found: dict[Resources, list[str]] = {}
    for name in dict.fromkeys(datasets):
        found.setdefault(profile.resources(name), []).append(name)
    return found
