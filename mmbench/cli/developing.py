"""``test`` and ``new-method``: for those who add a method."""

import importlib.util
import re
import shlex
from dataclasses import asdict
from pathlib import Path

from mmbench.cli.output import print_rows
from mmbench.errors import UserError
from mmbench.folders import hindrance
from mmbench.plugins import load_plugin
from mmbench.registry import METHODS
from mmbench.scan import check_module_name

TEMPLATE = Path(__file__).parent.parent / "contract" / "template.py.txt"


def test(what: str, as_json: bool) -> int:
    """Run the contract on the methods of a file or on one by name; return 0 if all passed."""
    names = _names(what)
    import torch

    from mmbench.contract.suite import FIRST, run_all

    torch.set_num_threads(1)  # toy tensors: threads would only wait for each other
    rows, failed = [], 0
    for name in names:
        for result in run_all(METHODS.load(name)):
            failed += result.outcome == "FAIL"
            rows.append({"method": name, **asdict(result)})
    print_rows(rows, as_json, "no checks")
    if not as_json:
        passed = sum(row["outcome"] == "pass" for row in rows)
        print(f"{passed} passed, {failed} failed, {len(rows) - passed - failed} refused")
        if any(row["check"] in FIRST and row["outcome"] == "FAIL" for row in rows):
            print(f"where {' or '.join(FIRST)} fails, nothing more is checked")
    return 1 if failed else 0


def _names(what: str) -> list[str]:
    """Return the methods that ``what`` registers, or ``what`` itself."""
    if not (what.endswith(".py") or "/" in what or "." in what):
        file = Path(f"{what.replace('-', '_')}.py")
        if what not in METHODS.names() and file.is_file():
            raise UserError(f"no method is called {what!r}; for the file type mmbench test {file}")
        return [METHODS.entry(what).name]
    before = set(METHODS.names())
    load_plugin(what)
    file = Path(what).resolve()
    names = [e.name for e in METHODS.entries() if e.name not in before or e.file == file]
    if not names:
        raise UserError(f"{what} registers no method; decorate a class with @register_method(NAME)")
    return names


def new_method(name: str, folder: Path) -> None:
    """Write a method that works, to be changed; never over an existing file.

    Raises:
        UserError: for a name that is taken or not usable, or a file that is there.
    """
    file = folder / f"{name.replace('-', '_')}.py"
    check_module_name(name, "new-method")
    if name in METHODS.names():
        raise UserError(f"there is a method {name!r} in {METHODS.entry(name).file}; choose another")
    if file.exists():
        raise UserError(f"{file} is there already; choose another name or --folder")
    if importlib.util.find_spec(file.stem) is not None:
        raise UserError(
            f"{file.name} would stand before the Python module {file.stem!r}; choose another name"
        )
    text = _filled(name)
    try:
        compile(text, str(file), "exec")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except SyntaxError as err:
        raise UserError(f"no class can be made of the name {name!r}; choose another") from err
    except OSError as err:
        why = hindrance(folder, err)
        raise UserError(f"cannot write {file}: {why}, or choose another --folder") from err
    print(f"wrote {file}; next:")
    typed = shlex.quote(str(file))
    print(f"  mmbench test {typed}")
    print(f"  mmbench run --plugin {typed} --methods {name} --datasets embedded --seeds 3")
    print("  mmbench report --study everything")


def _filled(name: str) -> str:
    """Return the template with the name, and a class name that the template does not use."""
    template = TEMPLATE.read_text(encoding="utf-8")
    words = "".join(part.capitalize() for part in name.replace("-", "_").split("_"))
    if re.search(rf"\b{words}\b", template):
        words += "Method"
    fill = {"NAME": name, "CLASS": words}
    return re.sub("NAME|CLASS", lambda found: fill[found[0]], template)
