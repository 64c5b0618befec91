"""A report of more records needs little more memory."""

import tracemalloc

import pytest

from mmbench.report.build import report
from mmbench.report.index import load_frame

METHODS, SEEDS = ("concat", "sum", "iprm", "ogm-ge", "mla"), 5


@pytest.fixture
def peak(template, make, tmp_path):
    """Return a function: the most bytes that a report of so many datasets holds at once."""

    def measured(datasets):
        runs = tmp_path / str(datasets) / "runs"
        names = [(f"d{d}", method, s) for d in range(datasets) for method in METHODS
                 for s in range(SEEDS)]  # fmt: skip
        for number, (dataset, method, seed) in enumerate(names):
            record = make(template, method, seed, number % 97 / 100, dataset=dataset)
            record = record.model_copy(update={"curve": []})
            (runs / str(number)).mkdir(parents=True)
            (runs / str(number) / "record.json").write_text(record.model_dump_json())
        load_frame(runs, [])  # leaves the index
        tracemalloc.start()
        report(runs.parent, ["rebalanced"], "runs", figures=False)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    return measured


def test_memory_of_a_report_grows_little_with_the_number_of_records(peak):
    few, many = 8, 32  # from 200 records on there is an index
    peak(few)  # what is imported and cached once
    records = (many - few - 1) * len(METHODS) * SEEDS
    grown = (peak(many) - peak(few + 1)) / records  # about 3000; copies of the frame made it 7700
    assert grown < 4500, f"{grown:.0f} bytes more for every record"
