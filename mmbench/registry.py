"""From a name to a class: what is in ``methods/``, ``datasets/``, ``nets/`` and the user's files.

Names are read from the source text (the decorator's first argument), so listing imports nothing
heavy. A class is imported when it is first needed.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from mmbench.errors import UserError, nearest
from mmbench.scan import check_name, first_line, registered_names

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Entry:
    """A registered name and where it is defined.

    Attributes:
        name: as typed on the command line.
        file: the source file.
        module: what to import.
        summary: first line of the class's docstring, else of the module's.
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
            UserError: for an unknown name, a missing library, or if the import did not register it.
        """
        entry = self.entry(name)
        if name not in self._classes:
            try:
                importlib.import_module(entry.module)
            except ModuleNotFoundError as err:
                raise UserError(
                    f"cannot import the {self.kind} {name!r} from {entry.file}: {err}; "
                    "install the missing library or correct the import"
                ) from err
        if name not in self._classes:
            raise UserError(
                f"{entry.file} was expected to register the {self.kind} {name!r} and did not; "
                f"decorate a class with @{self.decorator}({name!r})"
            )
        return self._classes[name]

    def register(self, name: str, cls: type) -> None:
        """Record ``cls`` under ``name``; called by the decorators.

        Raises:
            UserError: if another file already registered the name, or it is not a usable name.
        """
        file = _source_file(cls)
        check_name(name, self.decorator, file)
        known = self._entries.get(name)
        if known is not None and known.file != file:
            raise UserError(self._twice(name, known.file, file))
        if known is None:
            module_doc = getattr(sys.modules.get(cls.__module__), "__doc__", None)
            summary = first_line(cls.__doc__) or first_line(module_doc)
            self._entries[name] = Entry(name, file, cls.__module__, summary, "plugin")
        self._classes[name] = cls

    def add_file(self, file: Path, module: str, origin: str) -> int:
        """Add the names that ``file`` registers; return how many there are.

        Raises:
            UserError: if the file cannot be read, or a name is taken or not usable.
        """
        file = file.resolve()
        found = registered_names(file, self.decorator)
        taken = set()
        for name, summary in found:
            known = self._entries.get(name)
            if name in taken:
                raise UserError(self._twice(name, file, file))
            if known is not None and known.file != file:
                raise UserError(self._twice(name, known.file, file))
            taken.add(name)
            # A file known under another module name keeps it: one file must not be imported twice.
            if known is None or known.module == module:
                self._entries[name] = Entry(name, file, module, summary, origin)
        return len(found)

    def _twice(self, name: str, first: Path, second: Path) -> str:
        return (
            f"the {self.kind} {name!r} is registered twice: in {first} and in {second}; rename one"
        )

    def _scan(self) -> None:
        if self._scanned:
            return
        spec = importlib.util.find_spec(self.package)
        if spec is None:
            raise UserError(
                f"the package {self.package} is not there, so no {self.kind} can be found; "
                "install mmbench first (pip install -e . in its folder)"
            )
        for folder in spec.submodule_search_locations or []:
            for file in sorted(Path(folder).glob("[!.]*.py")):
                own = self.package if file.stem == "__init__" else f"{self.package}.{file.stem}"
                self.add_file(file, own, "built-in")
        for point in importlib.metadata.entry_points(group=self.group):
            where = f"entry point {point.name!r} of {self.group}"
            if not self.add_file(_module_file(point.module, where), point.module, "entry point"):
                raise UserError(
                    f"the {where} names the module {point.module!r}, which registers no "
                    f"{self.kind}; point it at the file with @{self.decorator}"
                )
        self._scanned = True  # only now: a scan that failed must fail again, not list a part


def _source_file(cls: type) -> Path:
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (OSError, TypeError):  # typed at a prompt or into a notebook: there is no file
        return Path(f"<{cls.__module__}>")


def _module_file(module: str, where: str = "plug-in") -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as err:  # ValueError: an empty or half-imported name
        raise UserError(f"cannot find the module {module!r} of the {where}: {err}") from err
    if spec is None or not spec.has_location or spec.origin is None:
        raise UserError(
            f"cannot find a file for the module {module!r} of the {where}; is it installed, and a "
            "module rather than a bare folder?"
        )
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
        module = re.sub(r"\W", "_", f"mmbench_plugin_{file.stem}_{digest}")
        _PluginFinder.files[module] = file
    else:
        module, file = spec, _module_file(spec)
    for registry in REGISTRIES:
        registry.names()
    if not sum(registry.add_file(file, module, "plugin") for registry in REGISTRIES):
        decorators = ", ".join(f"@{registry.decorator}" for registry in REGISTRIES)
        raise UserError(
            f"the plug-in {spec} registers nothing; decorate a class at its top level with one of "
            f"{decorators}"
        )


class _PluginFinder:
    """Makes the files given by path importable under their generated module names."""

    files: ClassVar[dict[str, Path]] = {}

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a plug-in file, or None for every other module."""
        if fullname not in cls.files:
            return None
        return importlib.util.spec_from_file_location(fullname, cls.files[fullname])


sys.meta_path.append(_PluginFinder)


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
