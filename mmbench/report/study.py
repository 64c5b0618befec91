"""Named studies: which rows a comparison has, and what its differences are taken to."""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictBool, field_validator

from mmbench.cell import Fidelity, Preset
from mmbench.errors import UserError, nearest
from mmbench.registry import METHODS
from mmbench.report.titles import FIGURES, KINDS, figure_kind
from mmbench.scan import check_name
from mmbench.settings import Settings, validate

SUFFIX = ".toml"
ASIDE = {"name": None, "published": None}  # of a row; they choose no records


class Row(Settings):
    """One row: a method with some of its options changed.

    Attributes:
        method: its name; a method with variants fills several rows.
        name: what the row is called; none: the method's label.
        set: the options that differ from the defaults, and only those.
        fidelity: stated where a study compares fidelities; else the table's.
        preset: likewise.
        published: its name among the published numbers, where that is another.
    """

    method: str
    name: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    fidelity: Fidelity | None = None
    preset: Preset | None = None
    published: str | None = None

    @property
    def shown(self) -> str:
        """What it is called unless its method's label says more."""
        return self.name or self.method

    @property
    def special(self) -> bool:
        """Whether the row is about more than a method with its defaults."""
        return bool(self.set) or self.fidelity == "released" or self.preset == "authors"

    @property
    def loose(self) -> "Row":
        """The row, whatever the fidelity and the recipe."""
        return self.model_copy(update={"fidelity": None, "preset": None})


class Study(Settings):
    """One comparison.

    Attributes:
        name: name of its file, in ``studies/`` or of the user's own.
        title: what the caption begins with.
        rows: in order; ``found`` instead of a list takes whatever has records.
        baselines: methods among which the best is what differences are taken to.
        datasets: what ``run --study`` runs on unless told; empty: the embedded ones.
        vary: one setting by dotted key, and the values it takes in turn, e.g. a knob of a dataset.
        settings: what else differs from the defaults, by dotted key, e.g. the encoders. Records
            with all of them belong to this study alone.
        seeds: how many seeds ``run --study`` takes unless told.
        cost: whether it is about time and memory: the rows then run in turns, one at a time.
        strength: rows whose modalities are drawn over training; ``all`` takes every row.
        order: reports show studies with smaller numbers first.
        logged: what is drawn there as well: names before the ``/`` of what a method logs.
    """

    name: str
    title: str
    rows: tuple[Row, ...] | Literal["found"]
    baselines: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict, max_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    seeds: int = Field(3, ge=1)
    order: int = 9
    cost: StrictBool = False
    strength: tuple[str, ...] | Literal["all"] = ()
    logged: tuple[str, ...] = ()

    @property
    def listed(self) -> tuple[Row, ...]:
        """The rows that the study names.

        Raises:
            UserError: if it takes whatever was found.
        """
        if self.rows == "found":
            raise UserError(f"the study {self.name} shows what was run; it names nothing to run")
        return self.rows

    def defaults(self) -> dict[str, str]:
        """Return what ``run --study`` takes unless told otherwise, as typed."""
        methods = ",".join(dict.fromkeys(row.method for row in self.listed))
        found = {"methods": methods, "seeds": str(self.seeds)}
        return found | ({"datasets": ",".join(self.datasets)} if self.datasets else {})

    @field_validator("rows", mode="before")
    @classmethod
    def _names_are_rows(cls, value: Any) -> Any:  # Any: not validated yet
        if not isinstance(value, list | tuple):
            return value
        return tuple({"method": each} if isinstance(each, str) else each for each in value)


OWN: dict[str, tuple[Path, Study]] = {}  # the user's own, by name, once they were named


@cache
def _shipped() -> list[str]:
    folder = resources.files("mmbench.studies")
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def study_names() -> list[str]:
    """Return the names of all studies, sorted; of the user's own, those that were loaded."""
    return sorted([*_shipped(), *OWN])


def own_file(name: str) -> Path | None:
    """Return the file of a study of the user's own, None for one of mmbench."""
    return OWN[name][0] if name in OWN else None


def as_typed(name: str) -> str:
    """Return what ``--study`` takes for a study: its name, or the file of the user's own."""
    return str(own_file(name) or name)


def load_study(name: str) -> Study:
    """Return the study ``name``, or that of a file ``NAME.toml``, then known by its name too.

    Raises:
        UserError: if there is none, or the file is no study.
    """
    if name.endswith(SUFFIX):
        return _own(Path(name))
    if name in OWN:
        return OWN[name][1]
    if name not in _shipped():
        names = study_names()
        raise UserError(
            f"unknown study {name!r}{nearest(name, names)} (there are {', '.join(names)}; one of "
            "your own is the path of its file: NAME.toml)"
        )
    return _load_shipped(name)


@cache
def _load_shipped(name: str) -> Study:
    text = (resources.files("mmbench.studies") / f"{name}{SUFFIX}").read_text(encoding="utf-8")
    return validate(Study, {"name": name, **tomllib.loads(text)}, f"study {name}")


def _own(file: Path) -> Study:
    name = file.name.removesuffix(SUFFIX)
    check_name(name, f"the study {file}")
    if name in _shipped():
        raise UserError(f"{name!r} is a study of mmbench; give {file} another name")
    if (kind := name.rpartition("-")[2]) in {*KINDS, *FIGURES} - {""}:
        raise UserError(
            f"{file} cannot be a study of that name: tables and figures are called STUDY-{kind}; "
            "give it another"
        )
    if taken := [each for each in _shipped() if figure_kind(Path(f"{name}{SUFFIX}"), each)]:
        raise UserError(
            f"{file} cannot be a study of that name: its tables would be taken for figures of "
            f"{taken[0]}; give it another"
        )
    if name in OWN and OWN[name][0].absolute() != file.absolute():
        raise UserError(f"two studies are called {name!r}: {OWN[name][0]} and {file}; rename one")
    OWN[name] = (file, _read(file, name))
    return OWN[name][1]


def _read(file: Path, name: str) -> Study:
    try:
        text = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        why = err.strerror if isinstance(err, OSError) else err
        raise UserError(
            f"cannot read the study {file}: {why}; docs/add-a-study.md shows what it holds"
        ) from err
    if "name" in text:
        raise UserError(f"{file} sets 'name'; a study is called as its file: remove the line")
    try:
        if isinstance(text.get("rows"), list):
            text["rows"] = [_row(value, n) for n, value in enumerate(text["rows"], 1)]
        study = validate(Study, {"name": name, **text}, "")
    except UserError as err:
        raise UserError(f"{file} is no study: {err}") from err
    rows = [] if study.rows == "found" else study.listed
    _check_once(rows, file)
    methods = [row.method for row in rows]
    for baseline in study.baselines:
        if methods and baseline not in methods:
            raise UserError(
                f"{file} has the baseline {baseline!r}, and no row of that method"
                f"{nearest(baseline, METHODS.names())} (there are "
                f"{', '.join(dict.fromkeys(methods))}); add one, or take it out"
            )
    return study


def _row(value: Any, number: int) -> Row:  # Any: not validated yet
    """Return a row of a file; a mistake in it is told by its number."""
    if isinstance(value, str):
        value = {"method": value}
    if not isinstance(value, dict):
        raise UserError(f"row {number} is {value!r}; write a method's name, or a table with one")
    try:
        return validate(Row, value, "")
    except UserError as err:
        name = value.get("name") or value.get("method")
        raise UserError(f"row {number}{f' ({name})' if name else ''}: {err}") from err


def _check_once(rows: Sequence[Row], file: Path) -> None:
    """Refuse two rows of the same records, and two of one name."""
    for (one, first), (two, second) in combinations(enumerate(rows, 1), 2):
        if first.model_copy(update=ASIDE) == second.model_copy(update=ASIDE):
            raise UserError(
                f"{file}: rows {one} and {two} are both {second.method} with the same options; "
                "take one out"
            )
        if first.shown == second.shown:
            raise UserError(
                f"{file}: rows {one} and {two} are both called {second.shown!r}; give one of them "
                'another name: name = "..."'
            )
