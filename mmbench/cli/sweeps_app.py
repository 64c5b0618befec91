"""Commands that watch and steer what runs, here or on a cluster, and gather what it leaves."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.options import RESULTS, Json, Results


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, to the end.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    results: Results = RESULTS,
    json: Json = False,
) -> None:
    """Show what is done, running, waiting, failed, and where. Example: mmbench status --watch"""
    from mmbench.cli import watching

    raise typer.Exit(watching.status(results, json, watch, every))


def logs(
    cell: Annotated[str, typer.Argument(help="its name, or an unambiguous part of it")],
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while it runs.")] = False,
    results: Results = RESULTS,
) -> None:
    """Print the end of a cell's log, and why it failed. Example: mmbench logs CELL -f"""
    from mmbench.cli import reading_logs

    reading_logs.logs(cell, results, lines, follow)


def cancel(
    names: Annotated[
        list[str] | None, typer.Argument(help="sweeps or cells, or unambiguous parts of names")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that is at work.")] = False,
    now: Annotated[bool, typer.Option("--now", help="End SLURM jobs that run, too.")] = False,
    results: Results = RESULTS,
) -> None:
    """Stop sweeps or cells at the next step, after a checkpoint. Example: mmbench cancel --all"""
    from mmbench.cli import steering

    raise typer.Exit(steering.cancel(names or [], all_, now, results))


def retry(
    cells: Annotated[
        list[str] | None, typer.Argument(help="names, or unambiguous parts of them")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    results: Results = RESULTS,
) -> None:
    """Let failed or cancelled cells be run again. Example: mmbench retry --failed"""
    from mmbench.cli import steering

    raise typer.Exit(steering.retry(cells or [], failed, results))


def merge(
    other: Annotated[Path, typer.Argument(help="the other results folder; only read")],
    results: Results = RESULTS,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done, and stop.")] = False,
    json: Json = False,
) -> None:
    """Bring another folder's records here, overwrite nothing. Example: mmbench merge ~/b/results

    Exit code 1: a cell is finished in both with different numbers, or cannot be read.
    """
    from mmbench.cli import merging

    raise typer.Exit(merging.merge(other, results, dry_run, json))


COMMANDS = (status, logs, cancel, retry, merge)
