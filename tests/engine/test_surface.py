"""``import mmbench`` offers what a plug-in needs."""

import ast
from pathlib import Path

import pytest

import mmbench

METHODS = Path(__file__).parents[2] / "methods"


@pytest.mark.parametrize("name", mmbench.__all__)
def test_every_name_of_the_surface_is_there(name):
    assert getattr(mmbench, name) is not None


def test_what_the_methods_take_from_the_contract_is_on_the_surface():
    taken = {
        alias.name
        for file in METHODS.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "mmbench.method"
        for alias in node.names
    }
    assert {"of_trainer", "UNKNOWN", "ParameterGroup"} <= taken
    assert taken <= set(mmbench.__all__)
