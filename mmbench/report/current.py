"""Which records are of today's code: an edited method leaves older records of the same cell."""

import numpy as np
import pandas as pd


def current(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep the newest record of cells that differ in the code alone; the rest is told, not shown.

    Returns:
        The records in their order, and a line for every method with records of earlier code.
    """
    by_time = frame["apart"].iloc[np.argsort(frame["started"].to_numpy(), kind="stable")]
    older = by_time.index[by_time.duplicated(keep="last")]
    return frame.drop(older) if len(older) else frame, [
        f"{method}: {n} record{'s' if n > 1 else ''} of earlier code left out"
        for method, n in frame.loc[older, "method"].value_counts().sort_index().items()
    ]
