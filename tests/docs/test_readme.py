"""Every documented example is run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
RESULTS = README.parent / "docs" / "results.md"


def test_the_method_of_the_readme_runs(tmp_path):
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 35
    (tmp_path / "my_joint.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", "run", "--methods", "my-joint", "--datasets",
         "mfeat3", "--set", "trainer.epochs=2", "--plugin", str(tmp_path / "my_joint.py"),
         "--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 done of 1 cell" in done.stdout


@pytest.mark.parametrize("study", ["naive", "rebalanced"])
def test_the_tables_of_the_readme_are_those_the_records_give(study, score_tables):
    from mmbench.report.render import markdown
    from mmbench.report.study import load_study
    from mmbench.store import iter_records

    records = list(iter_records(README.parent / "results" / "records"))
    tables = score_tables(load_study(study), records, reference=True)
    expected = markdown([table for table in tables if not table.bundle])
    assert expected in README.read_text(encoding="utf-8")
    shown = expected.split("\n\n", 1)[1].strip()  # that page names its maker once, on top
    assert shown in RESULTS.read_text(encoding="utf-8")
