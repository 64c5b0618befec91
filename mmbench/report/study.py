"""Named studies: which rows a comparison has, and what its differences are taken to."""

import tomllib
from importlib import resources

from mmbench.errors import UserError, nearest
from mmbench.settings import Settings, validate


class Study(Settings):
    """One comparison.

    Attributes:
        name: name of its file in ``studies/``.
        title: what the caption begins with.
        rows: methods in row order; a method with variants fills several rows.
        baselines: methods among which the best is what differences are taken to.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    baselines: tuple[str, ...]


def study_names() -> list[str]:
    """Return the names of all studies, sorted."""
    folder = resources.files("mmbench.studies")
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load_study(name: str) -> Study:
    """Return the study ``name``.

    Raises:
        UserError: if there is none.
    """
    names = study_names()
    if name not in names:
        raise UserError(
            f"unknown study {name!r}{nearest(name, names)} (there are {', '.join(names)})"
        )
    text = (resources.files("mmbench.studies") / f"{name}.toml").read_text(encoding="utf-8")
    return validate(Study, {"name": name, **tomllib.loads(text)}, f"study {name}")
