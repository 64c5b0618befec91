"""Which records are of today's code: an edited method leaves older records of the same cell."""

from collections import Counter
from collections.abc import Iterable

from mmbench.cell import digest
from mmbench.record import Record

BESIDE = {"label", "changed", "unaffected", "method_version", "sources"}


def current(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """Keep the newest record of cells that differ in the code alone; the rest is told, not shown.

    Returns:
        The records in their order, and a line for every method with records of earlier code.
    """
    newest: dict[str, Record] = {}
    left_out: Counter[str] = Counter()
    for record in records:
        key = digest(record.cell.model_dump(mode="json", exclude=BESIDE))
        other = newest.setdefault(key, record)
        if other is not record:
            left_out[record.cell.method] += 1
            newest[key] = max(other, record, key=lambda each: each.started)
    return list(newest.values()), [
        f"{method}: {n} record{'s' if n > 1 else ''} of earlier code left out"
        for method, n in sorted(left_out.items())
    ]
