"""``explain`` and ``reproduce``: where a number comes from, and whether it comes again."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.errors import UserError, nearest
from mmbench.hints import typed
from mmbench.plugins import make_known
from mmbench.registry import METHODS
from mmbench.reproduce import Comparison, command_line, compare
from mmbench.settings import RunSettings, default_cache, validate
from mmbench.store import read_record
from mmbench.wording import counted

if TYPE_CHECKING:
    from mmbench.cell import Cell
    from mmbench.data.loader import Loader
    from mmbench.method import Method
    from mmbench.record import Record
    from mmbench.report.explain import Explained
    from mmbench.report.table import Source
    from mmbench.training.trainer import Hooks

AGAIN = "make the tables again"
TOLD = 10  # differing numbers that are printed


def explain(
    target: str,
    source: str,
    as_json: bool,
    studies: Sequence[str] = (),
    results: Path | None = None,
) -> int:
    """Print what a table's numbers come from; return 1 if one is not what its file says.

    Raises:
        UserError: if there is no such number; names the source that has it, if one does.
    """
    from mmbench.report.explain import explain as explained
    from mmbench.report.study import load_study

    for study in studies:
        load_study(study)  # one of the user's own is known by its name from here on
    folder = results or Path(target.partition(":")[0]).absolute().parent.parent
    try:
        found = explained(target, source, results)
    except UserError as err:
        if other := _agreeing(target, results):
            raise UserError(f"{err}\nthe number was made of other records: name {other}") from err
        raise
    if as_json:
        print(json.dumps([_as_json(number, folder) for number in found], indent=1))
    else:
        several = list(dict.fromkeys(number.name for number in found))
        if len(several) > 1:
            print(
                f"{len(several)} tables hold this row; to ask for one, say its name in place of "
                f"the dataset: {', '.join(several)}\n"
            )
        differs = any(number.agrees is False for number in found)
        other = _agreeing(target, results) if differs else ""
        for number in found:
            _print(number, folder, f"name {other}, which it was made of" if other else AGAIN)
    return int(any(number.agrees is False for number in found))


def _agreeing(target: str, results: Path | None) -> str:
    """Return the ``--source`` whose records give the numbers of the file; empty if none does."""
    from mmbench.report.explain import explain as explained

    for source in ("runs", "records"):
        with suppress(UserError):
            if all(number.agrees for number in explained(target, source, results)):
                return f"--source {source}"
    return ""


def _as_json(number: "Explained", results: Path) -> dict[str, Any]:  # Any: JSON values
    return {
        "name": number.name, "table": number.table, "row": number.row,
        "column": number.column, "shown": number.shown,
        "value": number.value, "written": number.written, "agrees": number.agrees,
        "records": [_origin(number, s, results) for s in number.own],
        "against": [_origin(number, s, results) for s in number.against],
    }  # fmt: skip


def _origin(
    number: "Explained", source: "Source", results: Path
) -> dict[str, Any]:  # Any: as above
    file = number.files[source.record]
    record = read_record(file, curve=False)
    where = record.environment
    return {
        "seed": source.seed, "value": source.value, "cell": record.cell_id, "file": str(file),
        "split": record.cell.split_hash, "data": record.data.data_hash if record.data else None,
        "commit": where.commit, "clean": where.clean, "device": where.hardware,
        "finished": record.finished, "epoch": record.selection.epoch if record.selection else None,
        "command": typed(command_line(record.cell, number.untold), results),
    }  # fmt: skip


def _print(number: "Explained", results: Path, advice: str) -> None:
    print(f"{number.table}\n{number.row}, {number.column}: {number.shown}")
    seeds = counted(len(number.own), "record")
    what = f"mean over seeds of the {number.pairing} to the baseline" if number.against else "mean"
    said = {
        True: "the file says the same",
        False: f"THE FILE SAYS {number.scale * (number.written or 0.0):.4f}; {advice}",
        None: "the file holds no value to compare with",
    }[number.agrees]
    print(f"  computed again from {seeds}, {what}: {number.scale * number.value:.4f}; {said}")
    for title, sources in (("records", number.own), ("baseline", number.against)):
        if sources:
            print(f"  {title}:")
        for source in sources:
            about, value = _origin(number, source, results), number.scale * source.value
            tree = {True: "clean", False: "with uncommitted changes", None: "unknown tree"}
            epoch = None if about["epoch"] is None else about["epoch"] + 1  # records count from 0
            print(
                f"    seed {source.seed}: {value:.4f}  cell {about['cell']}  epoch "
                f"{epoch}  split {about['split']}  data {about['data']}\n"
                f"      commit {str(about['commit'])[:10]} ({tree[about['clean']]})  "
                f"{about['device']}  {about['finished']}\n"
                f"      {about['file']}\n      {about['command']}"
            )
    print()


def reproduce(
    name: str,
    results: Path,
    source: str,
    device: str,
    cache: Path | None,
    plugins: Sequence[str],
    dry_run: bool,
    features: str = "",
) -> int:
    """Print the command that makes a cell, run it beside the results, and compare.

    Args:
        name: the cell's id, or a part of its record's name.
        results: the results folder.
        source: ``runs``, ``records`` or ``auto``.
        device: where to train.
        cache: of prepared data.
        plugins: files or modules with methods and datasets.
        dry_run: stop before training.
        features: ``pca`` or ``tsne``: also draw the features of the trained model.

    Returns:
        0 if every number is the same, 1 if not.

    Raises:
        UserError: if there is no such cell, or it fails this time.
    """
    if features not in ("", "pca", "tsne"):
        raise UserError(f"--features is pca or tsne; found {features!r}")
    cache = cache or default_cache()
    make_known(plugins, cache)
    old = _find(name, results, source)
    if old.cell.method not in METHODS.names():
        raise UserError(
            f"{old.cell.method!r} is no method of mmbench: add --plugin FILE.py with the file that "
            "registers it"
        )
    print(f"{old.cell.folder}, {old.status} on {old.environment.hardware}\n")
    print(f"    {typed(command_line(old.cell), plugins=plugins)}\n")
    if not _still_made(old.cell, cache):
        print(
            "typed today, this makes another cell: options, a recipe, the data or the code of the "
            f"method changed since; its commit was {old.environment.commit or 'not recorded'}\n"
        )
    if dry_run:
        return 0
    run = validate(RunSettings, {"device": device, "threads": old.environment.threads}, "run")
    from mmbench.training.run_cell import run_cell

    with tempfile.TemporaryDirectory(prefix="mmbench-reproduce-") as folder:
        new = run_cell(
            old.cell, results=Path(folder), cache=cache, run=run,
            hooks=_drawing(features, old.cell.folder, results / "figures"),
        )  # fmt: skip
    if new.failure and not old.failure:
        raise UserError(f"the cell failed this time: {new.failure.message}")
    return _tell(compare(old, new))


def _drawing(kind: str, name: str, folder: Path) -> "Hooks":
    """Return hooks that draw the features of the trained model, if a kind was asked for."""
    from mmbench.training.trainer import Hooks

    def trained(method: "Method", test: "Loader") -> None:
        from mmbench.report.projection import write_features
        from mmbench.training.imbalance import features

        found, label = features(method, test), test.label.cpu().numpy()
        for file in write_features(folder, name, kind, found, label, method.task.classes):  # type: ignore[arg-type]  # checked above
            print(f"wrote {file}")

    return Hooks(trained=trained) if kind else Hooks()


def _still_made(cell: "Cell", cache: Path) -> bool:
    """Say whether the cell's command gives that very cell with the code and data of today."""
    from mmbench.sweep import Request, expand

    request = Request(
        methods=[cell.method], datasets=[cell.dataset], seeds=[cell.seed],
        protocol=cell.protocol, fidelity=cell.fidelity, preset=cell.preset, settings=cell.changed,
    )  # fmt: skip
    try:
        return cell.id in {made.id for made in expand(request, cache)}
    except UserError:
        return False


def _find(name: str, results: Path, source: str) -> "Record":
    from mmbench.report.build import load_results

    files = load_results(results, source).files
    found = [record for record in files if name in record]
    if len(found) != 1:
        near = nearest(name, list(files))
        raise UserError(
            f"{name!r} is in the name of {len(found)} records of {results}{near}; "
            f"give the id of one cell ({typed('mmbench list runs', results)}, mmbench explain)"
        )
    return read_record(files[found[0]])


def _tell(found: Comparison) -> int:
    if found.same:
        print(f"the same: all {found.numbers} numbers agree bit for bit")
        return 0
    print(
        f"{len(found.differing)} of {found.numbers} numbers differ, by {found.largest:.3g} at most:"
    )
    for name in found.differing[:TOLD]:
        print(f"  {name}")
    if len(found.differing) > TOLD:
        print(f"  and {len(found.differing) - TOLD} more")
    for line in found.unlike:
        print(f"  {line}")
    return 1
