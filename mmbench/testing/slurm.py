"""A real SLURM on this machine: one controller, three virtual nodes, its own ports and folders.

An installed SLURM is never touched: ``SLURM_CONF`` points every command at the configuration
written here, and the daemons run in the foreground as children of the test.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "munged")
PACKAGES = ("slurm-wlm", "munge", "libfaketime")  # the last: clocks that disagree
NODES = ("n1", "n2", "n3")
PATH = "/usr/sbin:/sbin"  # Debian's place of the daemons
LIBRARIES = Path("/usr/lib")

CONFIG = """\
ClusterName=mmbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=200000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
EnforcePartLimits=ALL
MaxArraySize=4
SlurmdTimeout=10
KillWait=3
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port={nodes} CPUs=2 RealMemory=2000
NodeName=away NodeHostname=elsewhere NodeAddr=127.0.0.1 Port={ports[4]} CPUs=2 State=DOWN
PartitionName=main Nodes=n[1-3] Default=YES MaxTime=60 State=UP
PartitionName=urgent Nodes=n[1-3] PriorityTier=10 MaxTime=60 State=UP
PartitionName=away Nodes=away MaxTime=60 State=UP
"""


class Unavailable(Exception):
    """SLURM cannot be had on this machine; the message says why."""


def faketime() -> Path | None:
    """Return the library that lets a process see another time; None if it is not installed."""
    return next(LIBRARIES.glob("*/faketime/libfaketime.so.1"), None)


def install() -> None:
    """Install SLURM, munge and libfaketime from Debian if they are missing.

    Without libfaketime the cluster comes up all the same; only the test of clocks needs it.

    Raises:
        Unavailable: if SLURM or munge is missing and cannot be installed, or this is not root.
    """
    path = f"{os.environ.get('PATH', '')}:{PATH}"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if os.geteuid() != 0:
        raise Unavailable("a private SLURM cluster can be started by root only")
    if not missing and faketime():
        return
    if shutil.which("apt-get", path=path) is None:
        if not missing:
            return
        raise Unavailable(f"{', '.join(missing)} not found, and this is not Debian")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with Path(tempfile.gettempdir(), "mmbench-slurm-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes side by side
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(
                ["apt-get", "-q", *command], env=environment, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
    if done.returncode and missing:
        said = done.stderr.strip().splitlines()
        raise Unavailable(f"apt-get cannot install {' '.join(PACKAGES)}: {(said or ['?'])[-1]}")


def free_ports(count: int) -> list[int]:
    """Return adjacent ports that nothing listens on now (SLURM wants a range for the nodes)."""
    for first in range(17000 + os.getpid() % 1000 * 8, 32000, 8):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return list(range(first, first + count))
    raise Unavailable("no free ports between 17000 and 32000")


def wait_for(
    condition: Callable[[], object], what: str, seconds: float = 60, every: float = 0.2
) -> None:
    """Return once ``condition()`` is true.

    Raises:
        TimeoutError: if it is not within ``seconds``.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)


class Cluster:
    """The daemons and the commands of one private cluster.

    Attributes:
        folder: configuration, state and logs.
        environment: what a process needs to reach this cluster and no other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: v for name, v in os.environ.items() if not _of_slurm(name)}
        self.environment["PATH"] = f"{os.environ.get('PATH', '')}:{PATH}"
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Write the configuration and start all daemons.

        Raises:
            Unavailable: if one of them does not come up.
        """
        ports = free_ports(5)
        host = socket.gethostname().split(".")[0]
        text = CONFIG.format(
            host=host, folder=self.folder, ports=ports, nodes=f"[{ports[1]}-{ports[3]}]"
        )
        (self.folder / "slurm.conf").write_text(text)
        for name in ("munge", "state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        self._start_munge()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        try:
            wait_for(self._all_idle, "the nodes to be idle", seconds=180)
        except TimeoutError as err:
            said = (self.folder / "ctld.log").read_text()[-2000:]
            raise Unavailable(f"the private SLURM cluster does not come up: {err}\n{said}") from err

    def _start_munge(self) -> None:
        home = self.folder / "munge"
        home.chmod(0o755)  # munged wants its socket reachable and not writable by others
        (home / "key").write_bytes(os.urandom(128))
        (home / "key").chmod(0o600)
        self._daemon(
            "munged", "-F", "--force", f"--key-file={home}/key", f"--socket={home}/socket",
            f"--pid-file={home}/pid", f"--log-file={home}/log", f"--seed-file={home}/seed",
        )  # fmt: skip
        wait_for((home / "socket").exists, "munged", seconds=20, every=0.05)

    def _daemon(
        self, name: str, *arguments: str, key: str = "", wrap: tuple[str, ...] = ()
    ) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self.running[key or name] = subprocess.Popen(
                [*wrap, name, *arguments], env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def start_controller(self) -> None:
        """Start the controller; it takes up the saved state."""
        self._daemon("slurmctld", "-D")

    def start_node(self, node: str, environment: Mapping[str, str] | None = None) -> None:
        """Start the daemon of ``node``, with more variables for it and its jobs if given."""
        wrap = ("env", *(f"{k}={v}" for k, v in environment.items())) if environment else ()
        self._daemon("slurmd", "-D", "-N", node, key=node, wrap=wrap)

    def stop(self, key: str) -> None:
        """Stop ``slurmctld`` or the daemon of a node; its jobs live on."""
        process = self.running.pop(key)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def command(self, *words: str, check: bool = True) -> str:
        """Run a command of SLURM and return what it printed."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    def _all_idle(self) -> bool:
        shown = self.command("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False)
        return shown.split() == [word for node in NODES for word in (node, "idle")]

    def jobs(self, states: str = "all") -> list[dict[str, str]]:
        """Return the jobs that the controller knows: id, array id, state, node, restarts."""
        shown = self.command(
            "squeue", "-h", "-r", "-t", states, "-o", "%A|%F_%K|%T|%N|%r", check=False
        )
        keys = ("id", "task", "state", "node", "reason")
        return [dict(zip(keys, line.split("|"), strict=True)) for line in shown.splitlines()]

    def minutes(self, job: str) -> int:
        """Return for how many whole minutes ``job`` has been running."""
        shown = self.command("squeue", "-h", "-j", job, "-o", "%M")
        *hours, minutes, _ = (int(part) for part in shown.strip().split(":"))
        return 60 * sum(hours) + minutes

    def clear(self) -> None:
        """End all jobs, and wait until every node is idle again."""
        self.command("scancel", "-u", "root", check=False)
        self.command("scancel", "-u", "root", "--signal=KILL", check=False)
        wait_for(self._all_idle, "the nodes to be idle again", seconds=90)

    def restore(self) -> None:
        """Bring back what a test stopped, and end all jobs."""
        if "slurmctld" not in self.running:
            self.start_controller()
        for node in NODES:
            if node not in self.running:
                self.start_node(node)
        wait_for(lambda: self.command("scontrol", "ping", check=False).count("UP"), "slurmctld")
        self.command("scontrol", "update", "nodename=n[1-3]", "state=resume", check=False)
        self.clear()

    def end(self) -> None:
        """End all jobs and daemons."""
        with suppress(TimeoutError, subprocess.TimeoutExpired):
            self.clear()
        for key in (*NODES, "slurmctld", "munged"):
            if key in self.running:
                self.stop(key)


def _of_slurm(name: str) -> bool:
    return name.startswith(("SLURM", "SBATCH", "SUBMITIT"))


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Bring a cluster up, and take it down.

    Raises:
        Unavailable: if SLURM cannot be installed or started here.
    """
    install()
    folder = Path(tempfile.mkdtemp(prefix="mmbench-slurm-"))  # short: a socket's path has 108 bytes
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)
