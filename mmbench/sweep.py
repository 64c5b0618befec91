"""From lists and settings to cells: everything is validated here, before anything runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.cell import Cell, Fidelity, Preset, Protocol, canonical, encoder_parts
from mmbench.data import cache as data_cache
from mmbench.dataset import Dataset, Task
from mmbench.dotted import check_for_every, inside_run, split_settings
from mmbench.errors import UserError, nearest
from mmbench.method import Method
from mmbench.nets.encoders import encoder_names
from mmbench.own.table import TABLES
from mmbench.registry import DATASETS, ENCODERS, METHODS, Registry
from mmbench.settings import Settings, TrainerSettings, validate

if TYPE_CHECKING:
    from mmbench.report.study import Study


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        methods: names, or ``all``.
        datasets: names, ``embedded`` (those that need nothing), or ``all`` (those and whatever is
            prepared here).
        seeds: the seeds themselves.
        settings: dotted keys: ``trainer.X``, ``method.X``, ``dataset.X``, ``<name>.X``,
            ``encoder.<modality>``.
        shared: the same, from a file that serves several runs: settings of a method or dataset
            outside this run are checked and left out. ``settings`` win.
    """

    methods: Sequence[str]
    datasets: Sequence[str]
    seeds: Sequence[int]
    protocol: Protocol = "validated"
    fidelity: Fidelity = "corrected"
    preset: Preset = "common"
    settings: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)


def expand(request: Request, cache: Path) -> list[Cell]:
    """Return the cells of a request, datasets outermost, seeds innermost, without repeats.

    Raises:
        UserError: for anything unknown, out of range or not prepared.
    """
    methods = _names(request.methods, METHODS, {"all": METHODS.names()})
    datasets = _dataset_names(request, cache)
    shared = inside_run(request.shared, methods, datasets)
    by_prefix = split_settings({**shared, **request.settings}, methods, datasets)
    check_for_every(by_prefix.get("method", {}), methods)
    cells: dict[str, Cell] = {}
    for dataset_name in datasets:
        cls = DATASETS.load(dataset_name)
        values = {**by_prefix.get("dataset", {}), **by_prefix.get(dataset_name, {})}
        dataset = cls(validate(cls.Config, values, dataset_name))
        prepared = data_cache.ensure(dataset, cache=cache)
        for method_name in methods:
            for cell in _cells(
                request, by_prefix, dataset, prepared.split_hash, prepared.task, method_name
            ):
                cells[cell.id] = cell
    return list(cells.values())


def expand_study(request: Request, study: "Study", cache: Path) -> list[Cell]:
    """Return the cells of a study's rows, without repeats.

    Args:
        request: its methods say which rows; its settings apply to all of them.
        study: the rows.
        cache: prepared data.

    Raises:
        UserError: if a method has no row, and for anything that cannot be run.
    """
    rows = list(dict.fromkeys(row.method for row in study.listed))
    wanted = rows if "all" in request.methods else request.methods
    for name in wanted:
        if name not in rows:
            raise UserError(
                f"the study {study.name} has rows of {', '.join(rows)}, but not of "
                f"{name!r}{nearest(name, rows)}"
            )
    turns = [{key: value} for key, values in study.vary.items() for value in values] or [{}]
    cells: dict[str, Cell] = {}
    for turn, row in product(turns, study.listed):
        if row.method in wanted:
            own = {f"method.{key}": value for key, value in row.set.items()}
            part = replace(
                request,
                methods=[row.method],
                settings=own,
                shared={**study.settings, **turn, **request.shared, **request.settings},
                fidelity=row.fidelity or request.fidelity,
                preset=row.preset or request.preset,
            )
            made = expand(part, cache)
            if not (request.settings or request.shared or part.fidelity == "released"
                    or part.preset == "authors"):  # fmt: skip
                _check_told(study.name, [*study.settings, *own], made)
            cells.update({cell.id: cell for cell in made})
    return list(cells.values())


def _check_told(study: str, keys: Sequence[str], cells: Sequence[Cell]) -> None:
    """Refuse settings of a study that its cells do not differ by: no report would find them."""
    for cell, key in product(cells, keys):
        if key not in cell.changed:
            prefix, _, option = key.partition(".")
            raise UserError(
                f"the study {study} sets {key!r}, "
                + (
                    f"which records call 'dataset.{option}': write that"
                    if prefix == cell.dataset
                    else f"which changes nothing of {cell.label} on {cell.dataset}: leave it out"
                )
            )


def in_turns(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells so that methods alternate and each seed begins with another one.

    A machine that grows slower or faster then does so for all of them alike.
    """
    rounds: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        rounds.setdefault((cell.dataset, cell.seed), []).append(cell)
    shifts: dict[str, int] = {}
    ordered = []
    for (dataset, _), part in sorted(rounds.items(), key=lambda item: item[0]):
        shift = shifts.get(dataset, 0) % len(part)
        shifts[dataset] = shifts.get(dataset, 0) + 1
        ordered += part[shift:] + part[:shift]
    return ordered


def _cells(
    request: Request,
    by_prefix: Mapping[str, Mapping[str, Any]],
    dataset: Dataset,
    split_hash: str,
    task: Task,
    method_name: str,
) -> list[Cell]:
    cls: type[Method] = METHODS.load(method_name)
    released = cls.released() if request.fidelity == "released" else {}
    given = {**by_prefix.get("method", {}), **by_prefix.get(method_name, {})}
    authors = cls.recipe(given, dataset.name) if request.preset == "authors" else {}
    recipe = {k.removeprefix("trainer."): v for k, v in authors.items() if k.startswith("trainer.")}
    options = {k: v for k, v in authors.items() if not k.startswith("trainer.")}
    usual = validate(TrainerSettings, {**dataset.trainer, **recipe}, "trainer")
    trainer = validate(
        TrainerSettings,
        {**dataset.trainer, **recipe, **by_prefix.get("trainer", {})},
        "trainer",
    )
    encoders = encoder_names(task.modalities, {**dataset.encoders, **by_prefix.get("encoder", {})})
    around = {
        **_changes("trainer", trainer, usual),
        **_changes("dataset", dataset.config, type(dataset).Config()),
        **_differing("encoder", encoders, encoder_names(task.modalities, dataset.encoders)),
    }
    unaffected = tuple(
        name
        for name, bundle in (("released", cls.released()), ("authors", cls.recipe({})))
        if not bundle
    )
    cells: list[Cell] = []
    for variant in cls.variants(task):
        plain = validate(cls.Config, {**variant, **options, **released}, method_name)
        config = validate(cls.Config, {**variant, **options, **released, **given}, method_name)
        cells.extend(
            Cell(
                method=method_name,
                label=cls.label(config),
                method_version=cls.version,
                method_config=config.model_dump(mode="json"),
                dataset=dataset.name,
                dataset_version=dataset.version,
                dataset_config=dataset.config.model_dump(mode="json"),
                split_hash=split_hash,
                encoders=encoders,
                protocol=request.protocol,
                fidelity="released" if released else "corrected",
                preset="authors" if authors else "common",
                trainer=trainer,
                seed=seed,
                changed={**_changes("method", config, plain), **around},
                unaffected=unaffected,
                sources=_sources(method_name, dataset.name, encoders),
            )
            for seed in request.seeds
        )
    return cells


def remarks(cells: Iterable[Cell]) -> list[str]:
    """Return what must be said about a method on a dataset, such as being an extension; once."""
    pairings = {(c.method, c.dataset, canonical(c.dataset_config)): c for c in cells}
    found: dict[str | None, None] = {}
    for cell in pairings.values():
        dataset = DATASETS.load(cell.dataset)
        task = dataset(validate(dataset.Config, cell.dataset_config, cell.dataset)).task
        found[METHODS.load(cell.method).remark(task)] = None
    return [remark for remark in found if remark]


def _sources(method: str, dataset: str, encoders: Mapping[str, str]) -> dict[str, str]:
    """Return the hash of every file in play that is not part of mmbench.

    Raises:
        UserError: if two of them, of different kinds, have one name.
    """
    entries = [METHODS.entry(method), DATASETS.entry(dataset)]
    plain = {encoder_parts(encoder)[0] for encoder in encoders.values()}
    entries += [ENCODERS.entry(name) for name in sorted(plain)]
    found = {entry.name: source for entry in entries if (source := entry.source())}
    files = {(entry.name, entry.file) for entry in entries if entry.source()}
    if len(files) > len(found):
        names = [name for name, _ in files]
        twice = next(name for name in names if names.count(name) > 1)
        where = " and ".join(str(file) for name, file in sorted(files) if name == twice)
        raise UserError(
            f"{twice!r} is the name of two things, in {where}; a method, its dataset and its "
            "encoders need different names"
        )
    return found


def _changes(prefix: str, config: Settings, plain: Settings) -> dict[str, Any]:
    """Return the fields of ``config`` that differ from ``plain``, by dotted key."""
    return _differing(prefix, config.model_dump(mode="json"), plain.model_dump(mode="json"))


def _differing(prefix: str, values: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{k}": v for k, v in values.items() if v != plain.get(k)}


def _names(
    asked: Sequence[str], registry: Registry, groups: Mapping[str, Sequence[str]]
) -> list[str]:
    found: list[str] = []
    for name in asked:
        if name in groups:
            found.extend(groups[name])
            continue
        try:
            found.append(registry.entry(name, also=groups).name)
        except UserError as err:
            if registry is DATASETS and Path(name).suffix.lower() in TABLES:
                hint = f"a table is prepared first: mmbench prepare {name}"
                raise UserError(f"{err}\n{hint}") from err
            raise
    if not found:
        raise UserError(f"no {registry.kind} given; name some, or say 'all'")
    return list(dict.fromkeys(found))


def _configured(name: str, request: Request) -> Dataset:
    """Return a dataset as the request's settings have it."""
    cls: type[Dataset] = DATASETS.load(name)
    given = {**request.shared, **request.settings}
    values = {k.removeprefix(f"{name}."): v for k, v in given.items() if k.startswith(f"{name}.")}
    return cls(validate(cls.Config, values, name))


def _dataset_names(request: Request, cache: Path) -> list[str]:
    asked = request.datasets
    groups: dict[str, Sequence[str]] = {"embedded": [], "all": []}
    if {"embedded", "all"} & set(asked):
        classes = {n: DATASETS.load(n) for n in DATASETS.names()}
        groups["embedded"] = [n for n, c in classes.items() if c.embedded and not c.generator]
        groups["all"] = [
            n for n in classes
            if n in groups["embedded"] or data_cache.is_prepared(_configured(n, request), cache)
        ]  # fmt: skip
    return _names(asked, DATASETS, groups)


def unprepared(request: Request, cache: Path) -> dict[str, str]:
    """Return the datasets that ``--datasets all`` leaves out, each with what to type for it."""
    left = {}
    for name in DATASETS.names():
        dataset = _configured(name, request)
        if not dataset.embedded and not data_cache.is_prepared(dataset, cache):
            known = data_cache.others(dataset, cache)
            left[name] = (
                f"is prepared with other options; add {known[0]}"
                if known
                else f"is not prepared; {data_cache.command(dataset, cache)}"
            )
    return left
