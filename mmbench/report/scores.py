"""The comparison of a study: metrics, best and second, and the difference to the best baseline."""

from collections.abc import Sequence
from dataclasses import replace

from mmbench.report.ceiling import ceiling
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


BUDGET = {"epochs": "Epochs", "lr": "Rate"}  # told of every row where epochs differ
OTHER = Entry("other epochs", "absent")
LONGER = (
    "Epochs differ between rows, and more of them may help by themselves: a row has a difference "
    "to the best baseline, and can be best or second, only where it was trained for as many."
)


def same_epochs(row: Shown, other: Shown) -> bool:
    """Say whether two rows were trained for as many epochs; one without a score tells nothing."""
    return "done" not in row.column("status") or row.distinct("epochs") == other.distinct("epochs")


def score_table(study: Study, group: Group, reference: bool) -> Table:
    """Return the comparison: every metric, the difference, and each modality alone."""
    rows, task = group.rows, group.task
    metrics, modalities = list(task["metrics"]), list(task["modalities"])  # type: ignore[call-overload]  # lists of text
    main = metrics.index(str(task["primary"]))
    title = TITLES.get(metrics[main], metrics[main])
    entries = [[_entry(row, "fused", m) for m in metrics] for row in rows]
    best = _best_baseline(study, rows, [line[main].value for line in entries])
    alike = [best is None or same_epochs(row, rows[best]) for row in rows]
    _place(entries, alike)
    told = {} if all(alike) else BUDGET
    filled = []
    for number, row in enumerate(rows):
        difference = Entry("")
        if best is not None:
            pair = (entries[number][main].sources, entries[best][main].sources)
            difference = _difference(*pair, number == best) if alike[number] else OTHER
        own = [_entry(row, m, metrics[main]) for m in modalities]
        spent = [Entry(", ".join(f"{v:g}" for v in row.distinct(key))) for key in told]
        filled.append((row.name, (*spent, *entries[number], difference, *own)))
    scores = [line[main].sources.by_seed for line in entries]
    return Table(
        name=f"{study.name}-{group.slug}",
        heading=f"{study.title}: {group.title}",
        columns=(
            "Method",
            *told.values(),
            *(TITLES.get(m, m) for m in metrics),
            f"Δ {title}",
            *(f"{m} alone" for m in modalities),
        ),
        rows=tuple(filled),
        caption=caption(group, reference, WHAT) + _absent(group),
        notes=(
            *unrun(group),
            *_notes(rows, scores, title),
            *([] if all(alike) else [LONGER]),
            *_ceiling(group),
            *_concluded(study, group, scores, best, alike, title),
        ),
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


def unrun(group: Group) -> tuple[str, ...]:
    """Return the note that names the rows left out of a table, without any record there."""
    return (f"Not run here: {'; '.join(group.unrun)}.",) if group.unrun else ()


def _place(entries: Sequence[list[Entry]], alike: Sequence[bool]) -> None:
    """Mark the best and the second of every column, among the rows that are alike."""
    styles: dict[int | None, Style] = {0: "best", 1: "second"}
    for i in range(len(entries[0]) if entries else 0):
        placed = ranks([e[i].value if a else None for e, a in zip(entries, alike, strict=True)])
        for line, rank in zip(entries, placed, strict=True):
            line[i] = replace(line[i], style=styles.get(rank, line[i].style))


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


def _notes(rows: Sequence[Shown], scores: Sequence[dict[int, float]], title: str) -> list[str]:
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
    return notes + _remarks(rows)


def _ceiling(group: Group) -> list[str]:
    """Return the note on what no row can exceed, where that is known."""
    best = ceiling(group)
    return [] if best is None else [
        f"No classifier of all modalities exceeds {100 * best:.2f} in the mean (the Bayes "
        "accuracy of the formula that the data is drawn from)."
    ]  # fmt: skip


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


def _concluded(
    study: Study,
    group: Group,
    scores: Sequence[dict[int, float]],
    best: int | None,
    alike: Sequence[bool],
    title: str,
) -> list[str]:
    """Say in one sentence how the best of the other rows stands to the best baseline."""
    rivals = [i for i, score in enumerate(scores) if score and i != best and alike[i]]
    if best is None or not rivals:
        return []
    top = max(rivals, key=lambda i: mean_std(list(scores[i].values()))[0])
    mean, half, shared = paired_difference(scores[top], scores[best])
    words = f"{group.rows[top].name} against {group.rows[best].name}"
    if half is None:
        return [f"{words}: {shared} shared seed, so nothing can be concluded."]
    words += f", the best baseline: {title} {100 * mean:+z.2f} ± {100 * half:.2f}"
    rivalled = sum(
        row.method in study.baselines and bool(score)
        for row, score in zip(group.rows, scores, strict=True)
    )
    spread = mean_std([scores[top][s] - scores[best][s] for s in scores[top].keys() & scores[best]])
    verdict = _verdict(mean, half, spread[1] or 0.0, _samples(group), rivalled > 1)
    return [f"{words} over {shared} seeds; {verdict}"]


def _samples(group: Group) -> int:
    """Return how many test samples there are; 0 where no record says."""
    return int(min((n for n in group.column("tested") if n is not None and n == n), default=0))


def _verdict(mean: float, half: float, spread: float, samples: int, chosen: bool) -> str:
    """Return what an interval shows.

    Args:
        mean: of the differences.
        half: half the width of their interval.
        spread: their sample standard deviation.
        samples: of the test split; a smaller spread than one of them is that of counting.
        chosen: whether the baseline is the best of several, by luck in part.
    """
    if abs(mean) <= half:
        return "the interval contains 0: no difference is shown."
    if samples and spread * samples < 1:
        return (
            "but the differences vary by less than one of the test samples, so that the interval "
            "says nothing of other seeds: nothing is concluded."
        )
    if mean < 0 and chosen:
        return (
            "the interval does not contain 0, but that baseline is the best of several on these "
            "same scores, by luck in part: nothing is concluded."
        )
    return "the interval does not contain 0 (one dataset, not corrected for multiple comparisons)."
