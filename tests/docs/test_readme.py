"""Every documented example is run."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


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
    assert "1 done of 1 cells" in done.stdout


def test_the_table_of_the_readme_is_the_one_the_records_give(tmp_path):
    from mmbench.report.build import build_study
    from mmbench.report.render import markdown
    from mmbench.report.study import load_study
    from mmbench.store import iter_records

    records = list(iter_records(README.parent / "results" / "records"))
    expected = markdown(build_study(load_study("naive"), records, reference=True))
    assert expected in README.read_text(encoding="utf-8")
