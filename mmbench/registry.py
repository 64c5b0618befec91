"""From a name to a class: what is in ``methods/``, ``datasets/``, ``nets/`` and the user's files.

Names are read from the source text (the decorator's first argument), so listing imports nothing
heavy. A class is imported when it is first needed.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmbench.errors import UserError, nearest
from mmbench.hints import typed
from mmbench.scan import check_name, first_line, module_file, registered_names

T = TypeVar("T", bound=type)
OUTSIDE = ("plugin", "entry point")
PLUGIN = "mmbench_plugin_"  # what the modules of plug-ins begin with that are given by their path
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A registered name and where it is defined.

    Attributes:
        name: as typed on the command line.
        file: the source file.
        module: what to import.
        summary: first line of the class's docstring, else of the module's.
        origin: ``built-in``, ``entry point``, ``plugin`` or ``own table``.
    """

    name: str
    file: Path
    module: str
    summary: str
    origin: str

    def source(self) -> str | None:
        """Return the first 16 hex digits of the hash of a file that is not part of mmbench."""
        if self.origin not in OUTSIDE or not self.file.is_file():
            return None
        return hashlib.sha256(self.file.read_bytes()).hexdigest()[:16]

    @property
    def plugin(self) -> str:
        """What ``--plugin`` must be given to make this known; empty if nothing."""
        if self.origin != "plugin":
            return ""
        if not self.module.startswith(PLUGIN):
            return self.module
        near = self.file.is_relative_to(Path.cwd())
        return str(self.file.relative_to(Path.cwd()) if near else self.file)


class Registry:
    """The names of one kind of plug-in.

    Args:
        kind: what an entry is called in messages, e.g. ``"method"``.
        package: the package whose files are scanned.
        decorator: name of the decorator that registers.
        group: the entry-point group of installed packages.
        base: what an entry must be a subclass of, as ``module:class``; imported when needed.
    """

    def __init__(self, kind: str, package: str, decorator: str, group: str, base: str) -> None:
        self.kind = kind
        self.package = package
        self.decorator = decorator
        self.group = group
        self.base = base
        self._left_out: list[str] = []  # entry points that could not be used, with the reason
        self._clashes: dict[str, str] = {}  # names that an entry point registers a second time
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

    @property
    def plugins(self) -> list[str]:
        """What ``--plugin`` must be given to make all entries known."""
        return list(dict.fromkeys(entry.plugin for entry in self.entries() if entry.plugin))

    def entry(self, name: str, also: Iterable[str] = ()) -> Entry:
        """Return the entry of ``name``.

        Args:
            name: as typed.
            also: what could have been meant as well.

        Raises:
            UserError: if there is none; suggests the nearest.
        """
        self._scan()
        if name in self._clashes:
            raise UserError(self._clashes[name])
        if name not in self._entries:
            names = self.names()
            raise UserError(
                "\n".join(
                    [
                        f"unknown {self.kind} {name!r}{nearest(name, [*names, *also])} "
                        f"({typed(f'mmbench list {self.kind}s', plugins=self.plugins)} shows all "
                        f"{len(names)}; "
                        "--plugin FILE adds one)",
                        *self._left_out,
                    ]
                )
            )
        return self._entries[name]

    def load(self, name: str) -> Any:
        """Import and return the class registered as ``name``.

        Returns:
            The class (typed Any: each registry holds another base class).

        Raises:
            UserError: for an unknown name, a file that cannot be imported, or one that did not
                register it.
        """
        entry = self.entry(name)
        if name not in self._classes:
            try:
                importlib.import_module(entry.module)
            except UserError:
                raise
            except ModuleNotFoundError as err:
                raise UserError(
                    f"cannot import the {self.kind} {name!r} from {entry.file}: {err}; "
                    "install the missing library or correct the import"
                ) from err
            except (Exception, SystemExit) as err:
                raise UserError(
                    f"cannot import the {self.kind} {name!r} from {entry.file}"
                    f"{_line_in(entry.file, err)}: {type(err).__name__}: {err}; correct the file"
                ) from err
        if name not in self._classes:
            raise UserError(
                f"{entry.file} was expected to register the {self.kind} {name!r} and did not; "
                f"decorate a class with @{self.decorator}({name!r})"
            )
        return self._classes[name]

    def register(self, name: str, cls: type, origin: str = "plugin") -> None:
        """Record ``cls`` under ``name``; called by the decorators.

        Raises:
            UserError: if another file already registered the name, it is not a usable name, or
                the class is not of the kind.
        """
        file = _source_file(cls)
        check_name(name, f"@{self.decorator} in {file}")
        self._check_base(name, cls, file)
        known = self._entries.get(name)
        if known is not None and known.file != file:
            raise UserError(self._twice(name, known.file, file))
        if known is None:
            module_doc = getattr(sys.modules.get(cls.__module__), "__doc__", None)
            summary = first_line(cls.__doc__) or first_line(module_doc)
            self._entries[name] = Entry(name, file, cls.__module__, summary, origin)
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

    def _check_base(self, name: str, cls: type, file: Path) -> None:
        module, _, base_name = self.base.partition(":")
        base = getattr(importlib.import_module(module), base_name)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            found = f"class {cls.__name__}" if isinstance(cls, type) else type(cls).__name__
            raise UserError(
                f"{file} registers {name!r} as a {self.kind} and it is a {found}; make it a "
                f"subclass of {module}.{base_name}"
            )

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
            try:
                self._add_point(point)
            except UserError as err:  # another package's mistake must not stop the rest
                self._left_out.append(str(err))
                logger.warning("%s", err)
        self._scanned = True  # only now: a scan that failed must fail again, not list a part

    def _add_point(self, point: importlib.metadata.EntryPoint) -> None:
        where = f"entry point {point.name!r} of {self.group}"
        file = module_file(point.module, where).resolve()
        names = [name for name, _ in registered_names(file, self.decorator)]
        if not names:
            raise UserError(
                f"the {where} names the module {point.module!r}, which registers no "
                f"{self.kind}; point it at the file with @{self.decorator}"
            )
        taken = {n: self._entries[n].file for n in names if n in self._entries}
        clashes = {n: self._twice(n, first, file) for n, first in taken.items() if first != file}
        self._clashes |= clashes
        if clashes:
            raise UserError("; ".join(clashes.values()))
        self.add_file(file, point.module, "entry point")


def _line_in(file: Path, err: BaseException) -> str:
    """Return where in ``file`` the error arose, or an empty text."""
    frames = traceback.extract_tb(err.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    return f", line {lines[-1]}" if lines else ""


def _source_file(cls: type) -> Path:
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (OSError, TypeError):  # typed at a prompt or into a notebook: there is no file
        return Path(f"<{cls.__module__}>")


METHODS = Registry(
    "method", "mmbench.methods", "register_method", "mmbench.methods", "mmbench.method:Method"
)
DATASETS = Registry(
    "dataset", "mmbench.datasets", "register_dataset", "mmbench.datasets", "mmbench.dataset:Dataset"
)
ENCODERS = Registry(
    "encoder", "mmbench.nets", "register_encoder", "mmbench.encoders", "torch.nn:Module"
)
REGISTRIES = (METHODS, DATASETS, ENCODERS)


def _decorator(registry: Registry) -> Callable[[str], Callable[[T], T]]:
    def register(name: str) -> Callable[[T], T]:
        def mark(cls: T) -> T:
            registry.register(name, cls)
            cls.name = name  # type: ignore[attr-defined]  # the contract's class attribute
            return cls

        return mark

    return register


register_method = _decorator(METHODS)
register_dataset = _decorator(DATASETS)
register_encoder = _decorator(ENCODERS)
