"""What is an extension of mmbench and not the paper's is said wherever it is run."""

from typer.testing import CliRunner

from mmbench.cli.app import app
from mmbench.sweep import Request, expand, remarks

EXTENSION = "ogm is defined for 2 modalities; the rule for 3 is mmbench's extension"


def test_a_pairing_is_remarked_on_once(tmp_path):
    request = Request(methods=["ogm", "concat"], datasets=["embedded"], seeds=[0, 1])
    assert remarks(expand(request, tmp_path)) == [EXTENSION]


def test_a_run_and_its_plan_say_so(tmp_path):
    words = ["run", "--methods", "ogm", "--datasets", "mfeat3", "--set", "trainer.epochs=1"]
    words += ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    for more in (["--dry-run"], []):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 0, done.output
        assert f"note: {EXTENSION}" in done.output
