"""``run --dry-run``: the cells, what is known of them, and what was done to know it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmbench.cell import Cell
from mmbench.cli.asking import Options
from mmbench.cli.output import clock, print_rows
from mmbench.settings import as_typed, default_cache
from mmbench.wording import counted

if TYPE_CHECKING:
    from mmbench.launch.estimate import Estimate

BUNDLES = ("protocol", "fidelity", "preset")


def show(
    cells: Sequence[Cell],
    states: Mapping[str, str],
    guesses: "Mapping[str, Estimate]",
    options: Options,
) -> None:
    """Print one row per cell, then what all of them take.

    Args:
        cells: that were asked for.
        states: of each, by id.
        guesses: what each that is to run is expected to take, by id.
        options: as typed.
    """
    rows = []
    apart = _apart(cells)
    for cell in cells:
        guess = guesses.get(cell.id)
        rows.append(
            {
                "cell": cell.folder,
                "state": states[cell.id],
                "seconds": guess and round(guess.seconds, 1),
                "memory_mib": guess and round(guess.memory / 2**20),
                "estimated_from": guess and guess.basis,
                "settings": apart[cell.id],
            }
        )
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    # In a terminal's width every letter counts.
    unsaid = set() if any(apart.values()) else {"settings"}
    print_rows(
        [{"MiB" if k == "memory_mib" else k: v for k, v in row.items() if k not in unsaid}
         for row in rows],
        False, "no cells",
    )  # fmt: skip
    show_remarks(cells)
    total = sum(guess.seconds for guess in guesses.values())
    print(
        f"{counted(len(cells), 'cell')}, {len(guesses)} to run, about {clock(total)} of one "
        f"worker's time\nno cell was run and no record written{_done(guesses)}; the data is "
        f"prepared in {options.cache or default_cache()}"
    )


def _done(guesses: "Mapping[str, Estimate]") -> str:
    """Say what was trained all the same."""
    tried = sum(guess.tried for guess in guesses.values())
    if not tried:
        return ""
    return (
        f"; for {counted(tried, 'estimate')} without a past run, cells of the kind were trained "
        "for a moment, and nothing of that is kept"
    )


def show_remarks(cells: Sequence[Cell]) -> None:
    """Print what must be said about a method on a dataset."""
    from mmbench.sweep import remarks

    for remark in remarks(cells):
        print(f"note: {remark}")


def _apart(cells: Sequence[Cell]) -> dict[str, str]:
    """Return by id the settings that tell a cell from those of its dataset, label and seed."""
    alike: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.dataset, cell.label, cell.seed), []).append(cell)
    found = {cell.id: "" for cell in cells}
    for group in alike.values():
        if len(group) == 1:
            continue
        changed = {key for cell in group for key in cell.changed}
        values = {cell.id: _settings(cell) for cell in group}
        for cell in group:
            mine = values[cell.id]
            telling = [
                f"{key}={as_typed(mine.get(key))}"
                for key in (*BUNDLES, *sorted(changed))
                if any(other.get(key) != mine.get(key) for other in values.values())
            ]
            found[cell.id] = " ".join(telling)
    return found


def _settings(cell: Cell) -> dict[str, Any]:  # Any: whatever JSON can hold
    """Return all settings of a cell by dotted key, those of ``changed`` among them."""
    held = cell.model_dump(mode="json")
    parts = {
        "method": held["method_config"], "trainer": held["trainer"],
        "dataset": held["dataset_config"], "encoder": held["encoders"],
    }  # fmt: skip
    dotted = {f"{part}.{k}": v for part, values in parts.items() for k, v in values.items()}
    return {**dotted, **{key: held[key] for key in BUNDLES}}
