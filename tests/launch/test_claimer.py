"""Workers that share a sweep: every cell runs once, whoever dies."""

from collections import Counter


def started(sweep):
    """Return how often each cell was begun, from what the claimers printed."""
    lines = [line for p in sweep.processes for line in p.log.read_text().splitlines()]
    return Counter(line.split()[2] for line in lines if " started " in line)


def test_two_workers_share_the_cells_and_none_runs_twice(make):
    sweep = make(seeds=8)
    both = [sweep.start(), sweep.start()]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    assert started(sweep) == Counter({d.name: 1 for d in sweep.directories()})
    assert all((d / "record.json").exists() for d in sweep.directories())
    assert not list(sweep.folder.runs.glob("*/lease-*"))
    assert all(" started " in p.log.read_text() for p in both)
