"""Read from a source file which names it registers, without importing it."""

import ast
import importlib.util
import keyword
import re
from pathlib import Path

from mmbench.errors import UserError

# A name is part of a folder's name, of comma-separated lists and of setting keys such as NAME.KEY.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RESERVED = frozenset({"all", "embedded", "trainer", "method", "dataset", "encoder"})


def registered_names(file: Path, decorator: str) -> list[tuple[str, str]]:
    """Return (name, summary) of each top-level class of ``file`` that carries the decorator.

    Args:
        file: Python source.
        decorator: name of the decorator, e.g. ``"register_method"``.

    Raises:
        UserError: if the file cannot be read or parsed, or a name is not a usable literal text.
    """
    try:
        # Bytes, not text: Python then honours a byte-order mark and an encoding line.
        tree = ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError) as err:
        raise UserError(f"cannot read the plug-in {file}: {err}; correct or remove it") from err
    summary = first_line(ast.get_docstring(tree))
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for mark in node.decorator_list:
            if _called(mark) == decorator:
                name = _literal_name(mark, decorator, file)
                found.append((name, first_line(ast.get_docstring(node)) or summary))
    return found


def check_name(name: object, who: str) -> None:
    """Refuse a name that could not be typed in a list or used in a folder's name.

    Args:
        name: the name.
        who: what was given it, e.g. ``@register_method in FILE`` or ``--name``.

    Raises:
        UserError: says which name, where, and what is allowed.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        raise UserError(
            f"{who} cannot use the name {name!r}; use letters, digits, "
            f"hyphens and underscores, and none of {', '.join(sorted(_RESERVED))}"
        )


def check_module_name(name: object, who: str) -> None:
    """Refuse also what could not be called so in Python: ``9lives``, ``class``.

    Raises:
        UserError: as ``check_name``.
    """
    check_name(name, who)
    stem = str(name).replace("-", "_")
    if not stem.isidentifier() or keyword.iskeyword(stem) or keyword.iskeyword(stem.capitalize()):
        raise UserError(
            f"{who} cannot use the name {name!r}: it names a class and its "
            "module; begin with a letter, and use no word of Python's own"
        )


def module_file(module: str, where: str) -> Path:
    """Return the file of a module that can be found, without importing it.

    Args:
        module: its dotted name.
        where: who names it, for messages.

    Raises:
        UserError: if there is none.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as err:  # ValueError: an empty or half-imported name
        raise UserError(f"cannot find the module {module!r} of the {where}: {err}") from err
    except Exception as err:  # find_spec runs the packages above the module
        raise UserError(
            f"the package above the module {module!r} of the {where} cannot be imported: "
            f"{type(err).__name__}: {err}"
        ) from err
    if spec is None or not spec.has_location or spec.origin is None:
        raise UserError(
            f"cannot find a file for the module {module!r} of the {where}; is it installed or in "
            "the working folder, and a module rather than a bare folder?"
        )
    return Path(spec.origin)


def first_line(doc: str | None) -> str:
    """Return the first line of a docstring, or an empty text."""
    return (doc or "").strip().partition("\n")[0]


def _called(mark: ast.expr) -> str | None:
    """Return the last part of the decorator's name: ``register_x`` for ``@m.register_x("n")``."""
    target = mark.func if isinstance(mark, ast.Call) else mark
    if isinstance(target, ast.Attribute):
        return target.attr
    return target.id if isinstance(target, ast.Name) else None


def _literal_name(mark: ast.expr, decorator: str, file: Path) -> str:
    given: list[ast.expr] = []
    if isinstance(mark, ast.Call):
        given = [*mark.args, *(k.value for k in mark.keywords if k.arg == "name")]
    if not given or not isinstance(given[0], ast.Constant):
        raise UserError(
            f'{file}, line {mark.lineno}: write the name as a plain text, @{decorator}("name"), '
            f"so that it can be listed without an import; found @{ast.unparse(mark)}"
        )
    name = given[0].value
    check_module_name(name, f"@{decorator} in {file}")
    return str(name)
