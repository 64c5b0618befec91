"""Cost is compared on one device, paired by seed, and what disturbed it is said."""

import pytest

from mmbench.cli.running import in_turns
from mmbench.report.cost import cost_tables
from mmbench.report.frame import tasks_of, to_frame
from mmbench.report.rows import groups
from mmbench.report.study import Study

STUDY = Study(name="s", title="T", rows=("concat", "iprm"), baselines=("concat",), cost=True)


@pytest.fixture
def timed(template, make):
    def made(method, seed, seconds, minute, device="one"):
        record = make(template, method, seed, 0.5)
        timing = record.timing.model_copy(update={"epoch_mean": seconds})
        where = record.environment.model_copy(update={"device_name": device})
        return record.model_copy(update={
            "timing": timing, "environment": where,
            "started": f"2026-01-01T00:{minute:02}:00+00:00",
            "finished": f"2026-01-01T00:{minute:02}:59+00:00",
        })  # fmt: skip

    return made


def tables(records):
    frame = to_frame(records)
    return cost_tables(STUDY, groups(STUDY, frame, tasks_of(frame)), reference=False)


def test_ratio_is_paired_by_seed(timed):
    records = [timed("concat", 0, 1.0, 0), timed("iprm", 0, 2.0, 1),
               timed("iprm", 1, 9.0, 2), timed("concat", 1, 3.0, 3)]  # fmt: skip
    (table,) = tables(records)
    row = dict(table.rows)["iprm"]
    assert row[0].value == pytest.approx(5.5)
    assert row[2].value == pytest.approx((2 + 3) / 2)
    assert not any("NOT COMPARABLE" in note for note in table.notes)


def test_rows_of_different_devices_stand_in_tables_of_their_own(timed):
    first, second = tables([
        timed("concat", 0, 1.0, 0), timed("iprm", 0, 2.0, 1),
        timed("concat", 0, 5.0, 2, "two"), timed("iprm", 0, 5.0, 3, "two"),
    ])  # fmt: skip
    assert [dict(t.rows)["iprm"][2].value for t in (first, second)] == pytest.approx([2.0, 1.0])
    assert "Device: one." in first.caption
    assert "Device: two." in second.caption


def test_runs_that_overlapped_are_said_not_to_compare(timed):
    (table,) = tables([timed("concat", 0, 1.0, 0), timed("iprm", 0, 2.0, 0)])
    assert any("NOT COMPARABLE: 2 of 2 runs" in note for note in table.notes)


def test_methods_take_turns_and_begin_each_seed_with_another(template):
    cells = [template.cell.model_copy(update={"label": m, "method": m, "seed": s})
             for m in ("a", "b", "c") for s in (0, 1)]  # fmt: skip
    assert [(c.seed, c.method) for c in in_turns(cells)] == [
        (0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a")
    ]  # fmt: skip
