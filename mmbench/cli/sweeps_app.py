"""Commands that watch and steer what runs, here or on a cluster, and gather what it leaves."""

from typing import Annotated

import typer

from mmbench.cli.options import RESULTS, Json, Results


def status(results: Results = RESULTS, json: Json = False) -> None:
    """Show what is done, running, failed. Example: mmbench status"""
    from mmbench.cli import browse

    raise typer.Exit(browse.status(results, json))


def logs(
    cell: Annotated[str, typer.Argument(help="its name, or an unambiguous part of it")],
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while it runs.")] = False,
    results: Results = RESULTS,
) -> None:
    """Print the end of a cell's log, and why it failed. Example: mmbench logs CELL -f"""
    from mmbench.cli import reading_logs

    reading_logs.logs(cell, results, lines, follow)


COMMANDS = (status, logs)
