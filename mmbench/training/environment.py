"""Where a run was made: versions, commit, device."""

import functools
import json
import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

import mmbench
from mmbench.data.manifest import library_version
from mmbench.record import Environment
from mmbench.settings import RunSettings
from mmbench.training.device import describe, memory_format
from mmbench.wording import counted

LIBRARIES = ("torch", "torchvision", "torchaudio", "numpy", "scikit-learn")
COMMIT_FILE = "commit.json"  # in a copy of the code: which commit it was made from


def _git(*arguments: str) -> str | None:
    folder = Path(mmbench.__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


@functools.cache
def commit() -> tuple[str | None, bool | None]:
    """Return the commit of the code in use and whether its files are unchanged since.

    The copy of a sweep says what it was made from. (None, None) outside a git checkout of mmbench,
    as in an installed wheel.
    """
    stated = Path(mmbench.__file__).parent / COMMIT_FILE
    if stated.exists():
        held = json.loads(stated.read_text(encoding="utf-8"))
        return held["commit"], held["clean"]
    top = _git("rev-parse", "--show-toplevel")
    tracked = _git("ls-files", "--error-unmatch", "__init__.py")
    if top is None or tracked is None:
        return None, None
    code = [str(Path(top) / part) for part in ("mmbench", "methods", "datasets")]
    return _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *code) == ""


def environment(
    device: torch.device, run: RunSettings | None = None, kernels: bool = False
) -> Environment:
    """Describe this process, how ``run`` has it work on ``device``, and whether with `kernels`."""
    run = run or RunSettings()
    sha, clean = commit()
    return Environment(
        mmbench=mmbench.__version__,
        python=platform.python_version(),
        libraries={name: library_version(name) for name in LIBRARIES},
        commit=sha,
        clean=clean,
        platform=platform.platform(),
        device=device.type,
        device_name=describe(device),
        threads=torch.get_num_threads(),
        memory_format=memory_format(device, run.memory_format),
        compiled=run.compile,
        kernels=kernels,
        ranks=run.gpus_per_cell,
    )


def conditions(device: torch.device) -> str:
    """Return in one line what a measured number depends on."""
    here = environment(device)
    changed = "" if here.clean or here.commit is None else " with changes"
    return (
        f"{here.device_name}, {counted(here.threads, 'thread')}, torch {here.libraries['torch']}, "
        f"{date.today().isoformat()}, commit {str(here.commit)[:10]}{changed}"
    )
