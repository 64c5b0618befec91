"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[Path, typer.Option(help="Results folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RESULTS = Path("results")
