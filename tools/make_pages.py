"""Write a page for every method and dataset, from what the classes say of themselves.

Run ``python tools/make_pages.py`` after a change of one; a test holds the pages against the source.
"""

import argparse
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbench.cli.browse import about
from mmbench.registry import DATASETS, METHODS, Registry
from mmbench.settings import as_typed

DOCS = Path(__file__).parents[1] / "docs"
OPTION = ("option", "default", "allowed", "meaning", "source")  # titles of the columns
DEVIATION = ("option", "corrected", "released", "why")
SETTING = ("setting", "value")
MADE = "<!-- made by tools/make_pages.py from the source; do not edit -->"


def _text(value: object) -> str:
    """Return a table's cell: on one line, without a bar."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [titles, [":--"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _code(value: object) -> str:
    return f"`{as_typed(value)}`" if value != "" else ""


def page(told: Mapping[str, Any], source: str) -> str:
    """Return the Markdown of one class.

    Args:
        told: what ``mmbench show NAME --json`` prints.
        source: path of its file from the page.
    """
    name = told["name"]
    parts = [MADE, f"# {name}", told["doc"], f"[Source]({source}); `mmbench show {name}`."]
    if facts := [(key, value) for key, value in told["info"].items() if value]:
        parts += [f"**{key.capitalize()}**\n\n{_fact(value)}" for key, value in facts]
    if told["options"]:
        options = [_option(each) for each in told["options"]]
        parts += ["## Options", _table(OPTION, options)]
    if told["deviations"]:
        changes = [_deviation(each) for each in told["deviations"]]
        parts += ["## Differences from the released code", _table(DEVIATION, changes)]
    if told["authors"]:
        recipe = [(f"`{key}`", value) for key, value in told["authors"].items()]
        parts += ["## The authors' recipe (`--preset authors`)", _table(SETTING, recipe)]
    return "\n\n".join(parts) + "\n"


def _option(told: Mapping[str, object]) -> Sequence[object]:
    return (
        f"`{told['option']}`", _code(told["default"]), told["allowed"], told["meaning"],
        told["source"],
    )  # fmt: skip


def _deviation(told: Mapping[str, object]) -> Sequence[object]:
    option = f"`{told['option']}`" if told["option"] else "(told)"
    return option, told["corrected"], told["released"], told["why"]


def _fact(value: str) -> str:
    """Return a fact; of several lines, such as a folder tree, as they stand."""
    return f"```\n{inspect.cleandoc(value)}\n```" if "\n" in value else value


def pages(registry: Registry) -> dict[str, str]:
    """Return the pages of one kind by the name of their file, with an index."""
    entries = [entry for entry in registry.entries() if entry.origin == "built-in"]
    kind = "methods" if registry is METHODS else "datasets"
    made = {
        f"{e.name}.md": page(about(registry, e.name), f"../../{kind}/{e.file.name}")
        for e in entries
    }
    rows = [(f"[{e.name}]({e.name}.md)", e.summary) for e in entries]
    index = [MADE, f"# {kind.capitalize()}", _table(("name", "what it is"), rows)]
    return {"README.md": "\n\n".join(index) + "\n", **made}


def main(argv: Sequence[str] | None = None) -> None:
    """Write all pages, and remove those of what is gone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=DOCS, help="default: docs/")
    folder = parser.parse_args(argv).folder
    for kind, registry in (("methods", METHODS), ("datasets", DATASETS)):
        made = pages(registry)
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for old in (folder / kind).glob("*.md"):
            if old.name not in made:
                old.unlink()
        for name, text in made.items():
            (folder / kind / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
