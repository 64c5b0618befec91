"""What training costs: time, memory and parameters, of runs on one device only."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from mmbench.report.rows import Columns, Group, Positions, Shown
from mmbench.report.scores import TITLES, absence, caption, reasons, unrun
from mmbench.report.study import Study
from mmbench.report.summary import mean_std
from mmbench.report.table import Entry, Table, mean_entry
from mmbench.wording import counted

MIB = 2**20
NOTES = (
    "s/epoch: seconds of the training steps of an epoch, the first left out, mean ± standard "
    "deviation over runs; within: the mean of the standard deviations over the epochs of a run.",
    "Ratio: these seconds over those of {reference}, paired by seed, on the same device.",
    "Run: seconds of a whole run, with loading, validation after every epoch, what a method does "
    "outside the steps of an epoch, and the measurements at the end; Run ratio: likewise. What is "
    "alike for all rows draws it towards 1.",
    "Peak memory: of the allocator on a GPU, else of the whole process.",
)
OTHER_CODE = "other code"
APART = (
    f"{OTHER_CODE}: these runs are of another commit than those of {{reference}} and were not made "
    "in turns with them, so that there is no ratio."
)
DISTURBED = (
    "TIMES NOT COMPARABLE: of {all} runs {what}. For times that are, run the study alone in a "
    "folder of its own: mmbench run --study {study} --results FOLDER takes the methods in turns, "
    "one run at a time."
)


@dataclass(frozen=True)
class Point:
    """One row of a comparison of cost: its name, ratio of whole runs, and score."""

    name: str
    ratio: float
    score: float
    spread: float


def by_device(groups: Iterable[Group]) -> list[Group]:
    """Return the groups with the records of every device and way of using it apart.

    A part says device or way where others of its group have another.
    """
    parts = []
    for group in groups:
        done = group.where[group.columns["status"][group.where] == "done"]
        places = sorted(set(_places(group.columns, done)))
        differs = [len(set(each)) > 1 for each in zip(*places, strict=True)]
        for place in places:
            here = tuple(_row_on(row, place) for row in group.rows)
            where = _only(group.columns, done, place)
            apart = (*group.apart, *compress(place, differs))
            parts.append(replace(group, rows=here, where=where, apart=apart))
    return parts


def _row_on(row: Shown, place: tuple[str, str]) -> Shown:
    """Return the row on one device; one that was never trained keeps what tells why."""
    if "done" not in row.column("status"):
        return row
    return replace(row, where=_only(row.columns, row.where, place))


def _places(columns: Columns, where: Positions) -> list[tuple[str, str]]:
    return list(zip(*(columns[key][where].tolist() for key in ("device", "way")), strict=True))


def _only(columns: Columns, where: Positions, place: tuple[str, str]) -> Positions:
    kept: Positions = where[np.array([each == place for each in _places(columns, where)], bool)]
    return kept


def cost_tables(study: Study, groups: Iterable[Group], reference: bool) -> Iterator[Table]:
    """Yield one table per dataset, protocol, bundle, setting, device and way of using it."""
    parts = by_device(groups)
    if parts:
        shared = shared_runs(parts[0].columns)
        yield from (_table(study, group, reference, shared) for group in parts)


def _table(study: Study, group: Group, reference: bool, shared: NDArray[np.bool_]) -> Table:
    primary = str(group.task["primary"])
    base = base_row(study, group)
    rows = [
        (
            row.name,
            (
                mean_entry(row.stored("seconds"), "{:.3f}", 1, spread=True, absent=absence(row)),
                Entry("")
                if set(row.column("epochs")) <= {1.0, 2.0}  # one that counts, no spread
                else mean_entry(row.stored("deviation"), "{:.3f}", 1),
                ratio_entry(row, base),
                mean_entry(row.stored("whole"), "{:.2f}", 1, spread=True),
                ratio_entry(row, base, "whole"),
                mean_entry(row.stored("throughput"), "{:.0f}", 1),
                mean_entry(row.stored("memory"), "{:.0f}", 1 / MIB),
                mean_entry(row.stored("parameters"), "{:,.0f}", 1),
                mean_entry(row.sources("fused", primary), "{:.2f}", spread=True),
            ),
        )
        for row in group.rows
    ]
    name = base.name if base else "the first baseline, which was not run here"
    return Table(
        name=f"{study.name}-{group.slug}",
        heading=f"{study.title}: {group.title}",
        columns=("Method", "s/epoch", "within", "Ratio", "Run, s", "Run ratio", "samples/s",
                 "Peak MiB", "Parameters", TITLES.get(primary, primary)),
        rows=tuple(rows),
        caption=caption(group, reference, f"Cost on one device, {group.first('way')}, and test "
                        f"{TITLES.get(primary, primary)} in percent,"),
        notes=(
            *unrun(group),
            *(n.format(reference=name) for n in NOTES),
            *([APART.format(reference=name)] if _apart(rows) else []), *reasons(group.rows),
            *(_warning(study, group, shared) or _conclusion(rows, base)),
        ),
        bundle=group.bundle,
        dataset=group.dataset,
        protocol=group.protocol,
    )  # fmt: skip


def _apart(rows: Iterable[tuple[str, tuple[Entry, ...]]]) -> bool:
    return any(entry.text == OTHER_CODE for _, entries in rows for entry in entries)


def base_row(study: Study, group: Group) -> Shown | None:
    """Return the row that ratios are taken to, the first baseline, if it was run here."""
    rows = [r for r in group.rows if r.method in study.baselines[:1] and r.stored("seconds")]
    return rows[0] if rows else None


def ratio_entry(row: Shown, base: Shown | None, key: str = "seconds") -> Entry:
    """Return the mean ratio of the row's seconds to the base's, paired by seed.

    Args:
        row: the row.
        base: what it is set against; None gives an empty entry, and runs of another commit one that
            says so.
        key: ``seconds`` of an epoch's steps, or of the ``whole`` run.
    """
    if base is None:
        return Entry("")
    if row.stored(key) and set(row.column("commit")) != set(base.column("commit")):
        return Entry(OTHER_CODE)
    both = row.stored(key), base.stored(key)
    own, against = both[0].of(both[1].seeds), both[1].of(both[0].seeds)
    if not own:
        return Entry("")
    mean, std = mean_std([a / b for a, b in zip(own.values, against.values, strict=True)])
    text = f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")
    return Entry(text, value=mean, spread=std, seeds=len(own), sources=own, against=against,
                 pairing="ratio", scale=1.0)  # fmt: skip


def comparable(groups: Iterable[Group]) -> bool:
    """Say whether nothing disturbed the times of the tables."""
    return _undisturbed(by_device(groups))


def _undisturbed(parts: Sequence[Group]) -> bool:
    shared = shared_runs(parts[0].columns) if parts else np.zeros(0, bool)
    return not any(_disturbed(group, shared) for group in parts)


def taken_for(study: Study, groups: Sequence[Group]) -> bool:
    """Say whether runs were taken as a study of cost wants them.

    That is one at a time, and the first baseline with another row on one device.
    """
    parts = by_device(groups)
    compared = [
        part
        for part in parts
        if base_row(study, part) and sum(bool(row.stored("seconds")) for row in part.rows) > 1
    ]
    return bool(compared) and _undisturbed(parts)


def shared_runs(columns: Columns) -> NDArray[np.bool_]:
    """Say of every record whether its run overlapped in time with another on such a device."""
    begun, ended = (
        np.array([datetime.fromisoformat(text).timestamp() for text in columns[key]])
        for key in ("started", "finished")
    )
    shared = np.zeros(len(begun), bool)
    for device in set(columns["device"]):
        there = np.flatnonzero(columns["device"] == device)
        there = there[np.argsort(begun[there], kind="stable")]
        latest = np.maximum.accumulate(ended[there])  # of each and all that began before it
        shared[there[1:]] = begun[there[1:]] < latest[:-1]
        shared[there[:-1]] |= begun[there[1:]] < ended[there[:-1]]
    return shared


def _disturbed(group: Group, shared: NDArray[np.bool_]) -> str:
    """Return what disturbed how many runs of a table, in words; empty if nothing did."""
    overlapped = int(shared[group.where].sum())
    continued = int((group.columns["resumed"][group.where] > 0).sum())
    found = {
        "overlapped in time with another one on such a device": overlapped,
        "were interrupted and continued": continued,
    }
    return " and ".join(f"{n} {said}" for said, n in found.items() if n)


def _warning(study: Study, group: Group, shared: NDArray[np.bool_]) -> tuple[str, ...]:
    what = _disturbed(group, shared)
    return (DISTURBED.format(all=len(group.where), what=what, study=study.name),) if what else ()


def _conclusion(
    rows: Sequence[tuple[str, tuple[Entry, ...]]], base: Shown | None
) -> tuple[str, ...]:
    """Say in one sentence how far the times of the rows' runs lie from the base's."""
    ratios = {name: e[4].value for name, e in rows if e[4].value is not None}
    others = {n: r for n, r in ratios.items() if base is not None and n != base.name}
    if base is None or not others:
        return ()
    runs = min(len(entries[4].sources) for name, entries in rows if name in ratios)
    least, most = (pick(others, key=lambda n: others[n]) for pick in (min, max))
    takes = (
        f"takes from {others[least]:.2f} ({least}) to {others[most]:.2f} times ({most})"
        if len(others) > 1
        else f"of {least} takes {others[least]:.2f} times"
    )
    return (
        f"What may be concluded: on this device and with these encoders a whole run {takes} that "
        f"of {base.name}; {counted(runs, 'run')} of each.",
    )


def points(study: Study, groups: Iterable[Group]) -> Mapping[str, list[Point]]:
    """Return the rows that have both a ratio and a score, by dataset, device and use of it."""
    found: dict[str, list[Point]] = {}
    for group in by_device(groups):
        base = base_row(study, group)
        for row in group.rows:
            scores = list(row.values("fused", str(group.task["primary"])).values())
            ratio = ratio_entry(row, base, "whole").value
            if scores and ratio is not None:
                mean, std = mean_std(scores)
                device = str(group.first("device"))
                where = group.title if device in group.apart else f"{group.title}\n{device}"
                point = Point(row.name, ratio, 100 * mean, 100 * (std or 0.0))
                found.setdefault(where, []).append(point)
    return found
