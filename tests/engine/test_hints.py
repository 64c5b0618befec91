"""A suggested command has the options that were given to the one that suggests it."""

from pathlib import Path

from mmbench.hints import RESULTS, typed


def test_what_was_not_given_is_not_repeated():
    assert typed("mmbench report", RESULTS) == "mmbench report"
    assert typed("mmbench report", RESULTS.absolute()) == "mmbench report"


def test_what_was_given_is_repeated_as_it_can_be_typed():
    said = typed("mmbench show CELL", Path("my results"), ["a.py", "pack.mine"])
    assert said == "mmbench show CELL --results 'my results' --plugin a.py --plugin pack.mine"
