"""Which records are of today's code: an edited method leaves older records of the same cell."""

import pandas as pd


def current(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep the newest record of cells that differ in the code alone; the rest is told, not shown.

    Returns:
        The records in their order, and a line for every method with records of earlier code.
    """
    newest = frame.sort_values("started", kind="stable").drop_duplicates("apart", keep="last")
    older = frame.loc[frame.index.difference(newest.index), "method"].value_counts().sort_index()
    return frame.loc[newest.index.sort_values()], [
        f"{method}: {n} record{'s' if n > 1 else ''} of earlier code left out"
        for method, n in older.items()
    ]
