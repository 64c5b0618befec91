"""Run the checks on a class and say what passed, what was refused, and what to mend."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mmbench.contract.checks import CHECKS
from mmbench.contract.promise import told
from mmbench.contract.toy import toy_task
from mmbench.method import Method

COUNTS = (1, 2, 3, 4)
BY_COUNT = ("constructs", "steps", "learns")  # what must hold for each, or be refused
FIRST = ("constructs", "steps")  # where one fails, the later checks would only say so again


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        check: what was checked.
        modalities: how many the toy task had.
        outcome: ``pass``, ``refused`` or ``FAIL``.
        detail: the refusal, what to mend, or a remark on a pass.
    """

    check: str
    modalities: int
    outcome: str
    detail: str = ""


def plan(cls: type[Method]) -> list[tuple[str, int]]:
    """Return which check runs with how many modalities.

    The first ones run with 1 to 4, ``options`` once, and the rest with two and three, as those are
    what the study has, or else with one.
    """
    accepted = [c for c in COUNTS if cls.refuse(toy_task(c), cls.Config()) is None]
    usual = [c for c in accepted if c in (2, 3)] or accepted[:1] or [2]
    counts = {"options": usual[:1], **{name: list(COUNTS) for name in BY_COUNT}}
    return [(name, c) for name in CHECKS for c in counts.get(name, usual)]


def run_one(cls: type[Method], check: str, modalities: int) -> Result:
    """Run one check in a temporary folder; whatever the class raises becomes a result."""
    refusal = cls.refuse(toy_task(modalities), cls.Config())
    if refusal is not None:
        return Result(check, modalities, "refused", refusal)
    with tempfile.TemporaryDirectory(prefix="mmbench-contract-") as folder:
        try:
            remark = CHECKS[check](cls, modalities, Path(folder))
        except Exception as err:
            return Result(check, modalities, "FAIL", told(err))
    return Result(check, modalities, "pass", remark or "")


def unwritten(cls: type) -> list[str]:
    """Return what must be written before anything can be checked."""
    if not issubclass(cls, Method):
        return [f"derive {cls.__name__} from mmbench.method.Method"]
    wanted = {
        "step": "write step(self, batch): do one update, return {'loss': loss}",
        "predict": "write predict(self, inputs): return the logits, {'fused': [B, C]}",
    }
    return [mend for name, mend in wanted.items() if getattr(cls, name) is getattr(Method, name)]


def run_all(cls: type[Method]) -> Iterator[Result]:
    """Run every check; a refusal of every number of modalities counts as a failure.

    With a number of modalities for which one of ``FIRST`` fails nothing more is checked, and a
    failure that an earlier check has told is not told again.
    """
    missing = unwritten(cls)
    if missing:
        yield from (Result("written", 0, "FAIL", mend) for mend in missing)
        return
    try:
        rows = plan(cls)
    except Exception as err:
        yield Result("constructs", 0, "FAIL", f"cannot be constructed from its defaults: {err}")
        return
    refused, stopped = [], set()
    told_by: dict[tuple[int, str], str] = {}
    for check, modalities in rows:
        if modalities in stopped and check != "options":
            continue
        result = run_one(cls, check, modalities)
        refused.append(result.outcome == "refused")
        if result.outcome == "FAIL":
            first = told_by.setdefault((modalities, result.detail), check)
            yield result if first == check else replace(result, detail=f"as in {first}")
            if check in FIRST:
                stopped.add(modalities)
        else:
            yield result
    if all(refused):
        yield Result("constructs", 0, "FAIL", "refuses every number of modalities from 1 to 4")
