"""From a name to a class: what is in ``methods/``, ``datasets/``, ``nets/`` and the user's files.

Names are read from the source text (the decorator's first argument), so listing imports nothing
heavy. A class is imported when it is first needed.
"""

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmbench.errors import UserError, nearest

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Entry:
    """A registered name and where it is defined.

    Attributes:
        name: as typed on the command line.
        file: the source file.
        module: what to import.
        summary: first line of the module's (or class's) docstring.
        origin: ``built-in``, ``entry point`` or ``plugin``.
    """

    name: str
    file: Path
    module: str
    summary: str
    origin: str


class Registry:
    """The names of one kind of plug-in.

    Args:
        kind: what an entry is called in messages, e.g. ``"method"``.
        package: the package whose files are scanned.
        decorator: name of the decorator that registers.
        group: the entry-point group of installed packages.
    """

    def __init__(self, kind: str, package: str, decorator: str, group: str) -> None:
        self.kind = kind
        self.package = package
        self.decorator = decorator
        self.group = group
        self._entries: dict[str, Entry] = {}
        self._classes: dict[str, type] = {}
        self._scanned = False

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self._scan()
        return sorted(self._entries)

    def entries(self) -> list[Entry]:
        """Return all entries, sorted by name."""
        return [self._entries[name] for name in self.names()]

    def entry(self, name: str) -> Entry:
        """Return the entry of ``name``.

        Raises:
            UserError: if there is none; suggests the nearest.
        """
        self._scan()
        if name not in self._entries:
            names = self.names()
            raise UserError(
                f"unknown {self.kind} {name!r}{nearest(name, names)} "
                f"(mmbench list {self.kind}s shows all {len(names)})"
            )
        return self._entries[name]

    def load(self, name: str) -> Any:
        """Import and return the class registered as ``name``.

        Returns:
            The class (typed Any: each registry holds another base class).

        Raises:
            UserError: for an unknown name, or if the import did not register it.
        """
        entry = self.entry(name)
        if name not in self._classes:
            importlib.import_module(entry.module)
        if name not in self._classes:
            raise UserError(
                f"{entry.file} was expected to register the {self.kind} {name!r} and did not; "
                f"decorate a class with @{self.decorator}({name!r})"
            )
        return self._classes[name]

    def register(self, name: str, cls: type) -> None:
        """Record ``cls`` under ``name``; called by the decorators.

        Raises:
            UserError: if another file already registered the name.
        """
        file = Path(inspect.getfile(cls)).resolve()
        known = self._entries.get(name)
        if known is not None and known.file != file:
            raise UserError(self._twice(name, known.file, file))
        if known is None:
            summary = _first_line(sys.modules[cls.__module__].__doc__ or cls.__doc__)
            self._entries[name] = Entry(name, file, cls.__module__, summary, "plugin")
        self._classes[name] = cls

    def add_file(self, file: Path, module: str, origin: str) -> int:
        """Add the names that ``file`` registers; return how many there are."""
        found = _registered_names(file, self.decorator)
        for name, summary in found:
            known = self._entries.get(name)
            if known is not None and known.file != file.resolve():
                raise UserError(self._twice(name, known.file, file))
            self._entries[name] = Entry(name, file.resolve(), module, summary, origin)
        return len(found)

    def _twice(self, name: str, first: Path, second: Path) -> str:
        return (
            f"the {self.kind} {name!r} is registered twice: in {first} and in {second}; rename one"
        )

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for file in sorted(Path(folder).glob("*.py")):
                self.add_file(file, f"{self.package}.{file.stem}", "built-in")
        for point in importlib.metadata.entry_points(group=self.group):
            module = point.value.partition(":")[0]
            self.add_file(_module_file(module), module, "entry point")


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]


def _registered_names(file: Path, decorator: str) -> list[tuple[str, str]]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError) as err:
        raise UserError(f"cannot read the plug-in {file}: {err}") from err
    summary = _first_line(ast.get_docstring(tree))
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for call in node.decorator_list:
            if not (isinstance(call, ast.Call) and call.args):
                continue
            called = call.func.attr if isinstance(call.func, ast.Attribute) else None
            called = call.func.id if isinstance(call.func, ast.Name) else called
            first = call.args[0]
            if called == decorator and isinstance(first, ast.Constant):
                own = _first_line(ast.get_docstring(node))
                found.append((str(first.value), own or summary))
    return found


def _module_file(module: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except ImportError as err:
        raise UserError(f"cannot find the plug-in module {module!r}: {err}") from err
    if spec is None or spec.origin is None:
        raise UserError(f"cannot find the plug-in module {module!r}; is it installed?")
    return Path(spec.origin)


METHODS = Registry("method", "mmbench.methods", "register_method", "mmbench.methods")
DATASETS = Registry("dataset", "mmbench.datasets", "register_dataset", "mmbench.datasets")
ENCODERS = Registry("encoder", "mmbench.nets", "register_encoder", "mmbench.encoders")
REGISTRIES = (METHODS, DATASETS, ENCODERS)


def load_plugin(spec: str) -> None:
    """Add the user's own classes: ``path/to/file.py`` or ``package.module``.

    Raises:
        UserError: if it cannot be found or registers nothing.
    """
    if spec.endswith(".py") or "/" in spec:
        file = Path(spec).resolve()
        if not file.is_file():
            raise UserError(f"there is no plug-in file {spec}; give a .py file or a module name")
        digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
        module = f"mmbench_plugin_{file.stem}_{digest}"
        _make_importable(module, file)
    else:
        module, file = spec, _module_file(spec)
    for registry in REGISTRIES:
        registry.names()
    if not sum(registry.add_file(file, module, "plugin") for registry in REGISTRIES):
        decorators = ", ".join(f"@{registry.decorator}" for registry in REGISTRIES)
        raise UserError(f"the plug-in {spec} registers nothing; use one of {decorators}")


def _make_importable(module: str, file: Path) -> None:
    if module in sys.modules:
        return

    class Finder:
        """Finds just this one file under its generated module name."""

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> Any:
            return importlib.util.spec_from_file_location(name, file) if name == module else None

    if not any(getattr(f, "module", None) == module for f in sys.meta_path):
        Finder.module = module  # type: ignore[attr-defined]  # marks it as already installed
        sys.meta_path.append(Finder)  # type: ignore[arg-type]  # typeshed wants a class with ABC


def _decorator(registry: Registry) -> Callable[[str], Callable[[T], T]]:
    def register(name: str) -> Callable[[T], T]:
        def mark(cls: T) -> T:
            cls.name = name  # type: ignore[attr-defined]  # the contract's class attribute
            registry.register(name, cls)
            return cls

        return mark

    return register


register_method = _decorator(METHODS)
register_dataset = _decorator(DATASETS)
register_encoder = _decorator(ENCODERS)
