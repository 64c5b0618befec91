"""The comparison of a study: metrics, best and second, and the difference to the best baseline."""

from collections.abc import Sequence
from dataclasses import replace

from mmbench.report.rows import Group, Shown
from mmbench.report.study import Study
from mmbench.report.summary import mean_std, paired_difference, ranks
from mmbench.report.table import Entry, Sources, Style, Table, mean_entry

TITLES = {"accuracy": "Accuracy", "map": "MAP", "macro_f1": "Macro-F1"}
WHAT = "Test metrics in percent, mean ± sample standard deviation"
RULES = {
    "validated": "epoch selected on validation, test read once at the end",
    "published": "EPOCH SELECTED ON TEST, as in most released code",
}


def score_table(study: Study, group: Group, reference: bool) -> Table:
    """Return the comparison: every metric, the difference, and each modality alone."""
    rows, task = group.rows, group.task
    metrics, modalities = list(task["metrics"]), list(task["modalities"])  # type: ignore[call-overload]  # lists of text
    main = metrics.index(str(task["primary"]))
    title = TITLES.get(metrics[main], metrics[main])
    entries = [[_entry(row, "fused", m) for m in metrics] for row in rows]
    for i in range(len(metrics)):
        placed = ranks([line[i].value for line in entries])
        for line, rank in zip(entries, placed, strict=True):
            line[i] = _styled(line[i], rank)
    best = _best_baseline(study, rows, [line[main].value for line in entries])
    filled = []
    for number, row in enumerate(rows):
        difference = Entry("")
        if best is not None:
            pair = (entries[number][main].sources, entries[best][main].sources)
            difference = _difference(*pair, number == best)
        own = [_entry(row, m, metrics[main]) for m in modalities]
        filled.append((row.name, (*entries[number], difference, *own)))
    return Table(
        name=f"{study.name}-{group.slug}",
        heading=f"{study.title}: {group.title}",
        columns=(
            "Method",
            *(TITLES.get(m, m) for m in metrics),
            f"Δ {title}",
            *(f"{m} alone" for m in modalities),
        ),
        rows=tuple(filled),
        caption=caption(group, reference, WHAT) + _absent(group),
        notes=_notes(rows, [line[main].sources.by_seed for line in entries], best, title),
        breaks=_breaks(study, rows),
        bundle=group.bundle,
        dataset=group.dataset,
        protocol=group.protocol,
    )


def _best_baseline(
    study: Study, rows: Sequence[Shown], values: Sequence[float | None]
) -> int | None:
    rivals = [
        i for i, row in enumerate(rows) if row.method in study.baselines and values[i] is not None
    ]
    return max(rivals, key=lambda i: values[i] or 0.0, default=None)


def _breaks(study: Study, rows: Sequence[Shown]) -> tuple[int, ...]:
    """Return where the leading block of baselines ends."""
    first = next((i for i, row in enumerate(rows) if row.method not in study.baselines), 0)
    return (first,) if first > 0 else ()


def _entry(row: Shown, prediction: str, metric: str) -> Entry:
    return mean_entry(row.sources(prediction, metric), "{:.2f}", spread=True, absent=absence(row))


def absence(row: Shown) -> str:
    """Return why a row has no number: refused, failed or missing; nothing if it was trained."""
    status = row.column("status")
    return "" if "done" in status else str(status[0]) if status else "missing"


def reasons(rows: Sequence[Shown]) -> list[str]:
    """Return what each refused or failed record of the rows says."""
    notes = []
    for row in rows:
        told = zip(row.column("status"), row.column("reason"), strict=True)
        notes += [f"{row.name}: {s}: {why}." for s, why in dict.fromkeys(told) if s != "done"]
    return notes


def _styled(entry: Entry, rank: int | None) -> Entry:
    placed: dict[int | None, Style] = {0: "best", 1: "second"}
    style = placed.get(rank, entry.style)
    return replace(entry, style=style)


def _difference(own: Sources, to: Sources, itself: bool) -> Entry:
    one, two = own.by_seed, to.by_seed
    mean, half, shared = paired_difference(one, two)
    if itself or not shared:
        return Entry("baseline" if itself else "")
    text = f"{100 * mean:+z.2f}" + (f" ± {100 * half:.2f}" if half is not None else "")
    return Entry(text, value=mean, spread=half, seeds=shared, sources=own.of(two),
                 against=to.of(one))  # fmt: skip


def caption(group: Group, reference: bool, what: str) -> str:
    """Return what the numbers are, and the protocol, seeds, device, date and commit behind them."""
    dates = sorted(set(group.column("date")))
    commits = sorted(
        f"{str(c)[:10]}{'' if clean is True else ' with uncommitted changes'}"
        for c, clean in set(zip(group.column("commit"), group.column("clean"), strict=True))
    )
    seeds = len(set(group.column("seed")))
    return (
        f"{what} over {seeds} seed{'s' if seeds > 1 else ''}. Protocol {group.protocol}: "
        f"{RULES[group.protocol]}{f', {group.bundle}' if group.bundle else ''}. "
        f"Device: {', '.join(sorted(set(group.column('device'))))}. "
        f"Records of {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, "
        f"commit {', '.join(commits)}{'; reference records' if reference else ''}."
    )


def _absent(group: Group) -> str:
    """Return what MAP does with the classes that have no test sample, if there are any."""
    most = max((n for n in group.column("absent") if n == n and n is not None), default=0)
    if "map" not in group.task["metrics"] or not most:  # type: ignore[operator]  # a list of text
        return ""
    zero = group.first("absent_class") == "zero"
    does, beside = ("counts", ", as 0") if zero else ("leaves out", "")
    which = f"{int(most)} of {group.task['classes']} classes, which have no test sample"
    return f" MAP {does} {which}{beside}."


def _notes(
    rows: Sequence[Shown], scores: Sequence[dict[int, float]], best: int | None, title: str
) -> tuple[str, ...]:
    notes = [
        "Δ: paired difference to the best baseline in percentage points, ± the half-width of its "
        "95 % t-interval.",
        f"“... alone”: {title} of the trained model's prediction from that modality only: a head "
        "of its own, or its share of the fused logits.",
    ]
    notes += reasons(rows)
    most = len({seed for row in scores for seed in row})
    fewer = [
        f"{row.name} ({len(own)})"
        for row, own in zip(rows, scores, strict=True)
        if 0 < len(own) < most
    ]
    notes += [f"Of {most} seeds, these rows have fewer: {', '.join(fewer)}."] if fewer else []
    notes += _remarks(rows)
    rivals = [i for i in range(len(rows)) if scores[i] and i != best]
    if best is not None and rivals:
        top = max(rivals, key=lambda i: mean_std(list(scores[i].values()))[0])
        names = rows[top].name, rows[best].name
        notes.append(_conclusion(*names, scores[top], scores[best], title))
    return tuple(notes)


def _remarks(rows: Sequence[Shown]) -> list[str]:
    """Return what is said of methods, which it begins with; the same of several in one line."""
    about: dict[str, dict[str, None]] = {}
    for row in rows:
        for remark in row.column("remark"):
            if isinstance(remark, str):
                name, _, rest = remark.partition(" ")
                about.setdefault(rest, {})[name] = None
    return [f"† {', '.join(names)}: each {rest}." if len(names) > 1 else
            f"† {next(iter(names))} {rest}." for rest, names in about.items()]  # fmt: skip


def _conclusion(
    top: str, best: str, one: dict[int, float], two: dict[int, float], title: str
) -> str:
    mean, half, shared = paired_difference(one, two)
    if half is None:
        return f"{top} against {best}: {shared} shared seed, so nothing can be concluded."
    words = (
        f"{top} against {best}, the best baseline: {title} {100 * mean:+z.2f} ± {100 * half:.2f}"
    )
    if abs(mean) <= half:
        return f"{words} over {shared} seeds; the interval contains 0: no difference is shown."
    return (
        f"{words} over {shared} seeds; the interval does not contain 0 (one dataset, not corrected "
        "for multiple comparisons)."
    )
