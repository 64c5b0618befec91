"""Where a run was made: versions, commit, device."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

import mmbench
from mmbench.record import Environment
from mmbench.training.device import describe

LIBRARIES = ("torch", "torchvision", "torchaudio", "torchmetrics", "numpy", "scikit-learn")


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

    (None, None) outside a git checkout of mmbench, as in an installed wheel.
    """
    top = _git("rev-parse", "--show-toplevel")
    tracked = _git("ls-files", "--error-unmatch", "__init__.py")
    if top is None or tracked is None:
        return None, None
    code = [str(Path(top) / part) for part in ("mmbench", "methods", "datasets")]
    return _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *code) == ""


def environment(device: torch.device, ranks: int = 1) -> Environment:
    """Describe this process, one of ``ranks`` that train a cell."""
    sha, clean = commit()
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return Environment(
        mmbench=mmbench.__version__,
        python=platform.python_version(),
        libraries=versions,
        commit=sha,
        clean=clean,
        platform=platform.platform(),
        device=device.type,
        device_name=describe(device),
        threads=torch.get_num_threads(),
        ranks=ranks,
    )
