"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.hints import RESULTS as RESULTS

Results = Annotated[Path, typer.Option(file_okay=False, help="Results folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
