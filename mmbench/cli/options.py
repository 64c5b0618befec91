"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.errors import UserError
from mmbench.folders import obstacle
from mmbench.hints import RESULTS as RESULTS


def check_folder(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Return ``path``, which may be missing.

    Raises:
        UserError: if it is no folder and none can be made there.
    """
    if path is not None and (found := obstacle(path)):
        raise UserError(f"{param.opts[0]} wants a folder; {found}; name another, or move that away")
    return path


Results = Annotated[Path, typer.Option(callback=check_folder, help="Results folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
