"""Classes without a test sample: told in the caption, left out of MAP or counted as 0."""

import pytest

from mmbench.report.frame import absent_as_zero, tasks_of, to_frame
from mmbench.report.rows import groups
from mmbench.report.scores import score_table
from mmbench.report.study import Study

STUDY = Study(name="s", title="T", rows=("concat", "sum"), baselines=("concat",))


@pytest.fixture
def table(template, make):
    """Return a function that makes a table of four classes, ``absent`` of them without a sample."""

    def built(absent, zero=False):
        records = []
        for method, value in (("concat", 0.5), ("sum", 0.6)):
            record = make(template, method, 0, value)
            data = record.data.model_copy(update={"absent": absent})
            task = {**record.task, "classes": 4}
            records.append(record.model_copy(update={"data": data, "task": task}))
        frame = to_frame(records)
        frame = absent_as_zero(frame) if zero else frame
        (group,) = groups(STUDY, frame, tasks_of(frame))
        return score_table(STUDY, group, reference=False)

    return built


def shown(table):
    return [[e.value for e in entries[:3]] for _, entries in table.rows]


def test_left_out_classes_are_told_and_change_no_number(table):
    one = table({"train": 0, "val": 0, "test": 1})
    assert shown(one) == [[0.5, 0.5, 0.5], [0.6, 0.6, 0.6]]
    assert one.caption.endswith(" MAP leaves out 1 of 4 classes, which have no test sample.")


def test_counted_as_zero_only_map_shrinks(table):
    one = table({"test": 1}, zero=True)
    assert shown(one) == [[0.5, 0.375, 0.5], [0.6, pytest.approx(0.45), 0.6]]
    assert one.caption.endswith(" MAP counts 1 of 4 classes, which have no test sample, as 0.")


@pytest.mark.parametrize("absent", [{"test": 0}, {}])
@pytest.mark.parametrize("zero", [False, True])
def test_nothing_is_said_or_changed_when_every_class_occurs(absent, zero, table):
    one = table(absent, zero)
    assert shown(one) == [[0.5, 0.5, 0.5], [0.6, 0.6, 0.6]]
    assert "MAP" not in one.caption


def test_each_table_has_the_modalities_of_its_own_options(template, make):
    def with_modalities(names, seed, **options):
        record = make(template, "concat", seed, 0.5)
        cell = record.cell.model_copy(
            update={"dataset_config": {**record.cell.dataset_config, **options},
                    "changed": {f"dataset.{k}": v for k, v in options.items()}}
        )  # fmt: skip
        task = {**record.task, "modalities": names}
        return record.model_copy(update={"cell": cell, "task": task})

    records = [with_modalities(["a", "b"], 0), with_modalities(["b", "c"], 1, preset="hard")]
    frame = to_frame(records)
    found = {group.around: group.modalities for group in groups(STUDY, frame, tasks_of(frame))}
    assert found == {"": ["a", "b"], "preset=hard": ["b", "c"]}
