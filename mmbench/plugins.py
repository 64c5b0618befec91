"""The user's own classes: a file given by its path, or a module given by its dotted name."""

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from mmbench.errors import UserError
from mmbench.registry import PLUGIN, REGISTRIES
from mmbench.scan import module_file


def load_plugin(spec: str) -> None:
    """Add the user's own classes: ``path/to/file.py`` or ``package.module``.

    A module may be installed or lie in the working folder, wherever Python was started from; an
    installed one of the same name comes first.

    Raises:
        UserError: if it cannot be found or registers nothing.
    """
    if spec.endswith(".py") or "/" in spec:
        file = Path(spec).resolve()
        if not file.is_file():
            raise UserError(f"there is no plug-in file {spec}; give a .py file or a module name")
        key = hashlib.sha256(str(file).encode()).hexdigest()[:8]
        module = re.sub(r"\W", "_", f"{PLUGIN}{file.stem}_{key}")
        _PluginFinder.files[module] = file
    else:
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        module, file = spec, module_file(spec, "plug-in")
    for registry in REGISTRIES:
        registry.names()
    if not sum(registry.add_file(file, module, "plugin") for registry in REGISTRIES):
        decorators = ", ".join(f"@{registry.decorator}" for registry in REGISTRIES)
        raise UserError(
            f"the plug-in {file} registers nothing; decorate a class at its top level with one of "
            f"{decorators}"
        )


def make_known(plugins: Iterable[str], cache: Path) -> None:
    """Add all that a command may name: the user's classes, and the tables prepared into ``cache``.

    Raises:
        UserError: as ``load_plugin``.
    """
    from mmbench.own.dataset import discover

    for plugin in plugins:
        load_plugin(plugin)
    discover(cache)


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
