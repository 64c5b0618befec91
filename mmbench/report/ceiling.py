"""What no classifier can exceed, where the data comes from a formula and its class says so."""

import json

from mmbench.errors import UserError
from mmbench.registry import DATASETS
from mmbench.report.rows import Group
from mmbench.settings import validate


def ceiling(group: Group) -> float | None:
    """Return the best possible value of the primary metric; None where it is not known.

    Only a dataset whose knob is turned is asked: it is drawn from a formula, and as the knob moves
    what can be reached, it moves what a method can gain.
    """
    if not group.knob or group.task["primary"] != "accuracy":
        return None
    try:
        made = DATASETS.load(group.dataset)
        config = validate(made.Config, json.loads(str(group.first("data"))), group.dataset)
    except UserError:
        return None  # the class is not here, or has other options by now; the scores stand
    best: float | None = made(config).best_accuracy()
    return best
