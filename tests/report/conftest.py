"""Toy records: a real one with its cell and scores replaced."""

from pathlib import Path

import pytest

from mmbench.store import iter_records

RECORDS = Path(__file__).parents[2] / "results" / "records"


@pytest.fixture(scope="session")
def template():
    return next(r for r in iter_records(RECORDS) if r.cell.method == "concat")


@pytest.fixture(scope="session")
def make():
    """Return a function that makes a record of one score from a template."""

    def made(template, method, seed, value, **cell):
        changed = template.cell.model_copy(
            update={
                "method": method,
                "label": method,
                "seed": seed,
                "dataset": "toy",
                "unaffected": (),
                **cell,
            }
        )
        metrics = dict.fromkeys(("accuracy", "map", "macro_f1"), value)
        final = {"selected": {"fused": metrics, "audio": metrics}}
        task = {
            "modalities": ["audio"], "classes": 2, "metrics": list(metrics), "primary": "accuracy",
        }  # fmt: skip
        return template.model_copy(update={"cell": changed, "final": final, "task": task})

    return made
