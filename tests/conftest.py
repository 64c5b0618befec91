"""For all tests: one thread, as every model here is too small to share, and workers run beside."""

import errno
import os
from pathlib import Path

# before torch is imported, and inherited by the commands that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

if not torch.cuda.is_available():
    # before Triton is imported: its kernels run on the CPU then
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def score_tables():
    """Return a function from a study and records to the tables of scores."""
    from mmbench.report.frame import tasks_of, to_frame
    from mmbench.report.rows import groups
    from mmbench.report.scores import score_table

    def made(study, records, reference=False):
        frame = to_frame(records)
        found = groups(study, frame, tasks_of(frame))
        return [score_table(study, group, reference) for group in found]

    return made


@pytest.fixture
def close(monkeypatch):
    """Return a function that lets nobody list a folder any more; root could, whatever its mode."""
    listdir = os.listdir

    def closed(folder):
        def guarded(path):
            if Path(path) == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return listdir(path)

        monkeypatch.setattr(os, "listdir", guarded)

    return closed
