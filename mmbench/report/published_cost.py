"""Published seconds beside ours: what compares across machines is the ratio to one method."""

from collections.abc import Iterable, Mapping, Sequence

from mmbench.report.cost import base_row, by_device, ratio_entry
from mmbench.report.published import SECONDS, WORDS, Number, score_triple, shown_names, told
from mmbench.report.rows import Group, Shown, unmarked
from mmbench.report.scores import RULES, TITLES, absence
from mmbench.report.study import Study
from mmbench.report.table import NONE, Entry, Table, mean_entry

NOTE = (
    "Ratio: seconds over those of {base} in the same column's source. Seconds of different "
    "machines do not compare, and the source may not name its own; ratios do, on machines alike."
)


def published_costs(
    study: Study, groups: Iterable[Group], numbers: Sequence[Number]
) -> list[Table]:
    """Return one table per dataset with published seconds, and protocol and device of ours.

    A dataset on which nothing was timed gets a table in which ours is missing.
    """
    found = by_device(groups)
    mine = [n for n in numbers if n.study == study.name]
    tables: list[Table] = []
    for dataset in dict.fromkeys(n.dataset for n in mine if n.metric == SECONDS):
        cited = [n for n in mine if n.dataset == dataset]
        ours: list[Group | None] = [group for group in found if group.dataset == dataset]
        tables += [_table(study, dataset, cited, group) for group in ours or [None]]
    return tables


def _table(study: Study, dataset: str, cited: Sequence[Number], group: Group | None) -> Table:
    metric = next((n.metric for n in cited if n.metric != SECONDS), "accuracy")
    title = TITLES.get(metric, metric)
    seconds, scores = ({n.method: n for n in cited if (n.metric == SECONDS) is timed}
                       for timed in (True, False))  # fmt: skip
    times = {method: n.value for method, n in seconds.items() if n.value is not None}
    base = None if group is None else base_row(study, group)
    reference = study.baselines[0]
    named = {} if group is None else {unmarked(row.name): row for row in group.rows}
    names = shown_names(study)
    rows = []
    for method in dict.fromkeys(n.method for n in cited):
        row = named.get(names.get(method, method))
        printed = scores[method].value if method in scores else None
        rows.append((
            names.get(method, method),
            (
                *_times(seconds.get(method), row),
                *_ratios(method, times, reference, row, base),
                *score_triple(printed, row.sources("fused", metric) if row else NONE),
            ),
        ))  # fmt: skip
    sources = ", ".join(sorted({n.source for n in cited}))
    caption = (
        f"Columns “published”, in italics: as printed ({sources}; see results/published), seconds "
        "and percent, not measured here. Ours: "
    )
    caption += "nothing was run on this dataset." if group is None else (
        f"mean ± sample standard deviation over seeds on {group.first('device')}, "
        f"{group.first('way')}, protocol {group.protocol}: "
        f"{RULES[group.protocol]}."
    )  # fmt: skip
    return Table(
        name=f"{study.name}-published-{group.slug if group else dataset}",
        heading=f"{study.title}: {group.title if group else dataset}, published beside measured",
        columns=(
            "Method", *(f"s/epoch, {w}" for w in WORDS[:2]), *(f"Ratio, {w}" for w in WORDS),
            *(f"{title}, {w}" for w in WORDS),
        ),
        rows=tuple(rows),
        caption=caption,
        notes=(NOTE.format(base=reference), *told(cited, names), _conclusion(rows)),
        bundle="" if group is None else group.bundle,
        dataset=dataset,
        protocol="" if group is None else group.protocol,
    )  # fmt: skip


def _conclusion(rows: Sequence[tuple[str, tuple[Entry, ...]]]) -> str:
    """Say in one sentence what the two ratios of a row tell."""
    gaps = [e[4].value for _, e in rows if e[4].value is not None]
    if not gaps:
        return "What may be concluded: nothing about the published times; none was measured here."
    far = max(gaps, key=abs)
    return (
        f"What may be concluded: of {len(gaps)} rows there are both ratios, and ours lie up to "
        f"{far:+z.2f} from the published ones; encoders and devices differ."
    )


def _times(printed: Number | None, row: Shown | None) -> list[Entry]:
    cited = Entry("")
    if printed is not None and printed.value is not None:
        spread = "" if printed.std is None else f" ± {printed.std:.2f}"
        cited = Entry(f"{printed.value:.2f}{spread}", "cited", printed.value, printed.std, scale=1)
    return [cited, mean_entry(row.stored("seconds") if row else NONE, "{:.3f}", 1, spread=True,
                              absent=absence(row) if row else "missing")]  # fmt: skip


def _ratios(
    method: str,
    seconds: Mapping[str, float],
    reference: str,
    row: Shown | None,
    base: Shown | None,
) -> list[Entry]:
    cited, printed = Entry(""), None
    if method in seconds and reference in seconds:
        printed = seconds[method] / seconds[reference]
        cited = Entry(f"{printed:.2f}", "cited", printed, scale=1)
    ours = ratio_entry(row, base) if row else Entry("")
    if ours.value is None:
        return [cited, Entry(ours.text or "missing", "absent"), Entry("")]
    if printed is None:
        return [cited, ours, Entry("")]
    gap = ours.value - printed
    return [cited, ours, Entry(f"{gap:+z.2f}", value=gap, scale=1)]
