"""The LaTeX tables compile with a real TeX."""

import os
import shutil
import subprocess

import pytest

from mmbench.report.cost import cost_tables
from mmbench.report.frame import to_frame
from mmbench.report.overall import overall_tables
from mmbench.report.pooling import pools
from mmbench.report.published import Number, published_tables
from mmbench.report.render import FORMS
from mmbench.report.rows import groups
from mmbench.report.scores import score_table
from mmbench.report.study import Study
from mmbench.report.wins import win_tables

STUDY = Study(name="s", title="A & B", rows=("concat", "iprm"), baselines=("concat",))
PAGE = (
    r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}"
    r"\usepackage{booktabs,graphicx}"
    "\n\\begin{document}\n%s\n\\end{document}\n"
)


@pytest.fixture(scope="module")
def pdflatex():
    """Return a real TeX; the Debian packages are installed where that is possible."""
    if not shutil.which("pdflatex") and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = ["texlive-latex-base", "texlive-latex-recommended"]
        command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        subprocess.run(command, capture_output=True, check=False, timeout=500)
    found = shutil.which("pdflatex")
    if found is None:
        pytest.skip("there is no pdflatex, and it cannot be installed here (not root, or no apt)")
    return found


def test_every_kind_of_table_compiles_with_pdflatex(template, make, tmp_path, pdflatex):
    records = [make(template, m, s, v + s / 9) for m, v in (("concat", 0.5), ("iprm", 0.6))
               for s in (0, 1)]  # fmt: skip
    refused = make(template, "iprm", 2, 0.0).model_copy(
        update={"status": "refused", "reason": "50 % of {a_b} ~ #1 \\ ^ $x$", "final": {}}
    )
    found = list(groups(STUDY, to_frame([*records, refused]), {"toy": records[0].task}))
    tables = [score_table(STUDY, found[0], reference=False)]
    tables += overall_tables(pools(STUDY, found)) + win_tables(pools(STUDY, found))
    tables += cost_tables(STUDY, found, reference=False)
    number = Number("s", "toy", "concat", "fused", "accuracy", 55.0, "a_source")
    tables += published_tables(STUDY, found, [number])
    (tmp_path / "page.tex").write_text(PAGE % FORMS["tex"].text(tables), encoding="utf-8")
    done = subprocess.run(
        [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").stat().st_size > 1000
