"""All commands and their options. Nothing heavy is imported before a command needs it."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli import sweeps_app
from mmbench.cli.options import RESULTS, Json, Results, check_folder
from mmbench.errors import UserError

app = typer.Typer(
    name="mmbench",
    help="Benchmark methods against modality imbalance under one protocol.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Cache = Annotated[
    Path | None,
    typer.Option(
        callback=check_folder,
        help="Prepared data; default $MMBENCH_CACHE or ~/.cache/mmbench.",
    ),
]
Plugin = Annotated[
    list[str] | None, typer.Option(help="Your own classes: FILE.py or package.module. Repeatable.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE, e.g. trainer.epochs=5 or METHOD.alpha=0.5. Repeatable."),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        callback=check_folder,
        help="Pretrained weights; default $MMBENCH_WEIGHTS or CACHE/weights.",
    ),
]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Fetch weights that are not there.")
]
SLURM = "On a cluster"


def _print_version(asked: bool) -> None:
    if asked:
        from mmbench import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Benchmark methods against modality imbalance under one protocol."""


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, datasets, encoders, studies or runs")],
    results: Results = RESULTS,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """List methods, datasets, encoders, studies or runs. Example: mmbench list methods"""
    from mmbench.cli import browse

    browse.list_things(what, results, plugin or [], json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="a method, dataset, encoder or run")],
    results: Results = RESULTS,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Explain one method, dataset, encoder or run. Example: mmbench show concat"""
    from mmbench.cli import browse

    browse.show(name, results, plugin or [], json)


@app.command()
def run(
    methods: Annotated[str, typer.Option(help="Comma-separated names, or all.")] = "",
    study: Annotated[
        str,
        typer.Option(help="The rows of a study: mmbench list studies, or your own FILE.toml."),
    ] = "",
    datasets: Annotated[
        str, typer.Option(help="Names, embedded, or all; default embedded, or the study's.")
    ] = "",
    seeds: Annotated[
        str | None,
        typer.Option(
            help="3 = seeds 0,1,2; 0,5 = these seeds; 0, = seed 0 alone. Default 1, or the study's."
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(help="validated (default) or published.")] = "",
    fidelity: Annotated[str, typer.Option(help="corrected (default) or released.")] = "",
    preset: Annotated[str, typer.Option(help="common (default) or authors.")] = "",
    encoder: Annotated[list[str] | None, typer.Option(help="MODALITY=ENCODER. Repeatable.")] = None,
    set_: Set = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same keys.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    jobs: Annotated[int | None, typer.Option(min=1, help="Workers on the CPU.")] = None,
    per_gpu: Annotated[
        str, typer.Option(help="Cells at once on a GPU, or auto: as many as it and the host take.")
    ] = "1",
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads per process.")] = None,
    gpus_per_cell: Annotated[
        int, typer.Option(min=1, help="Divide each batch of a cell between so many GPUs.")
    ] = 1,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Also write a checkpoint inside an epoch this often.")
    ] = 60.0,
    memory_format: Annotated[
        str, typer.Option(help="auto, contiguous or channels_last (auto: on a GPU).")
    ] = "auto",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the encoders (torch.compile).")
    ] = False,
    results: Results = RESULTS,
    cache: Cache = None,
    weights: Weights = None,
    allow_download: AllowDownload = False,
    plugin: Plugin = None,
    cluster: Annotated[
        str, typer.Option(help="slurm: submit instead of running here.", rich_help_panel=SLURM)
    ] = "",
    profile: Annotated[
        str,
        typer.Option(
            help="The options below from FILE.toml, or ~/.config/mmbench/profiles/NAME.toml.",
            rich_help_panel=SLURM,
        ),
    ] = "",
    partition: Annotated[str | None, typer.Option(rich_help_panel=SLURM)] = None,
    time: Annotated[
        str | None,
        typer.Option(help="Limit of a job: 90 (minutes), 2:00:00, 1-12.", rich_help_panel=SLURM),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs of a job; 0 unless said.", rich_help_panel=SLURM)
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(help="Cores of a job; 1 unless said.", rich_help_panel=SLURM)
    ] = None,
    mem: Annotated[
        str | None, typer.Option(help="Memory of a job, e.g. 32G.", rich_help_panel=SLURM)
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="Whom to charge.", rich_help_panel=SLURM)
    ] = None,
    max_jobs: Annotated[
        int | None, typer.Option(help="Jobs at most; 100 unless said.", rich_help_panel=SLURM)
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE for sbatch, e.g. qos=long. Repeatable.", rich_help_panel=SLURM
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print what would run, and stop.")] = False,
    json: Json = False,
) -> None:
    """Run a grid of cells; finished cells are skipped, interrupted ones continued.

    Example: mmbench run --methods concat,sum --datasets embedded --seeds 3
    """
    from mmbench.cli import asking, running
    from mmbench.settings import set_weights

    if seeds is not None:
        asking.parse_seeds(seeds)  # an empty text too, as of a variable that is not set
    set_weights(weights, allow_download)
    code = running.run(
        asking.Options(
            given={
                "methods": methods,
                "datasets": datasets,
                "seeds": seeds or "",
                "protocol": protocol,
                "fidelity": fidelity,
                "preset": preset,
            },
            study=study,
            encoder=encoder or [],
            set=set_ or [],
            config=config,
            device=device,
            jobs=jobs,
            per_gpu=per_gpu,
            threads=threads,
            gpus_per_cell=gpus_per_cell,
            checkpoint_seconds=checkpoint_seconds,
            memory_format=memory_format,
            compile=compile_,
            results=results,
            cache=cache,
            plugins=plugin or [],
            cluster=cluster,
            profile=profile,
            resources={
                "partition": partition,
                "time": time,
                "gpus": gpus,
                "cpus": cpus,
                "mem": mem,
                "account": account,
                "max_jobs": max_jobs,
                "slurm": slurm,
            },
            dry_run=dry_run,
            json=json,
        )
    )
    raise typer.Exit(code)


@app.command()
def work(
    sweep: Annotated[Path, typer.Argument(help="RESULTS/sweeps/ID")],
    per_gpu: Annotated[
        int | None, typer.Option(min=1, help="Cells at once on a GPU, or here without one.")
    ] = None,
) -> None:
    """Take cells of a sweep until none is left; any number of workers can.

    Example: mmbench work results/sweeps/ID

    Exit code 0: nothing is left to do here; 75: stopped before that; 1: a cell was given up, or
    its record cannot be read.
    """
    from mmbench.launch import claimer

    raise typer.Exit(claimer.work(sweep, per_gpu))


for each in sweeps_app.COMMANDS:
    app.command()(each)


@app.command()
def report(
    results: Results = RESULTS,
    study: Annotated[
        list[str] | None, typer.Option(help="Name of a study, or your own FILE.toml. Repeatable.")
    ] = None,
    source: Annotated[str, typer.Option(help="auto, runs or records.")] = "auto",
    readme: Annotated[
        Path | None, typer.Option(help="Also put the tables between the markers of this file.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw the figures as well.")] = True,
    html: Annotated[bool, typer.Option("--html", help="Also write RESULTS/report.html.")] = False,
    document: Annotated[
        Path | None, typer.Option(help="Also write all tables and figures to this Markdown page.")
    ] = None,
    absent_class: Annotated[
        str, typer.Option(help="MAP of a class without a test sample: left-out or zero.")
    ] = "left-out",
    json: Json = False,
) -> None:
    """Write and print the tables, from records alone. Example: mmbench report"""
    from mmbench.cli import reporting, unfinished

    with unfinished.told(results, source):
        code = reporting.report(
            results, study or [], source, readme, json, figures=figures, html=html,
            document=document, absent_class=absent_class,
        )  # fmt: skip
    raise typer.Exit(code)


@app.command()
def explain(
    number: Annotated[str, typer.Argument(help="FILE:ROW:DATASET, or with :COLUMN at the end.")],
    results: Annotated[
        Path | None,
        typer.Option(callback=check_folder, help="Results folder; default: the one of FILE."),
    ] = None,
    source: Annotated[str, typer.Option(help="auto, runs or records.")] = "auto",
    study: Annotated[
        list[str] | None, typer.Option(help="Your own FILE.toml that the table is of. Repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Trace a number to its records. Example: mmbench explain results/tables/naive.md:sum:avdigits

    The number is computed again; the exit code is 1 if the table says another.
    """
    from mmbench.cli import provenance

    raise typer.Exit(provenance.explain(number, source, json, study or [], results))


@app.command()
def reproduce(
    cell: Annotated[str, typer.Argument(help="its id, or a part of its record's name")],
    results: Results = RESULTS,
    source: Annotated[str, typer.Option(help="auto, runs or records.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    cache: Cache = None,
    plugin: Plugin = None,
    dry_run: Annotated[bool, typer.Option(help="Print the command, and stop.")] = False,
    features: Annotated[
        str, typer.Option(help="Also draw the test features in RESULTS/figures: pca or tsne.")
    ] = "",
) -> None:
    """Run a cell again and compare. Example: mmbench reproduce mfeat3.sum.s0

    The exit code is 1 if a number differs.
    """
    from mmbench.cli import provenance

    raise typer.Exit(
        provenance.reproduce(cell, results, source, device, cache, plugin or [], dry_run, features)
    )


@app.command()
def collect(
    results: Results = RESULTS,
    compress: Annotated[bool, typer.Option(help="Compressed files, to commit or to send.")] = False,
    json: Json = False,
) -> None:
    """Gather the finished records in RESULTS/records. Example: mmbench collect"""
    from mmbench.cli import reporting

    raise typer.Exit(reporting.collect(results, compress, json))


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="the dataset, or your own table: my.csv")],
    root: Annotated[
        Path | None, typer.Option(readable=False, help="Folder with the native files.")
    ] = None,
    as_: Annotated[str, typer.Option("--name", help="What to call your own table.")] = "",
    columns: Annotated[
        str, typer.Option(help="Your table's modalities, comma-separated; default: all columns.")
    ] = "",
    kind: Annotated[
        list[str] | None, typer.Option(help="COLUMN=KIND of your table. Repeatable.")
    ] = None,
    rebuild: Annotated[bool, typer.Option(help="Build again even if it is there.")] = False,
    set_: Set = None,
    cache: Cache = None,
    weights: Weights = None,
    allow_download: AllowDownload = False,
    plugin: Plugin = None,
) -> None:
    """Build a dataset's cache once. Example: mmbench prepare my.csv"""
    from mmbench.cli import preparing
    from mmbench.settings import set_weights

    set_weights(weights, allow_download)
    if preparing.is_table(name):
        if root or plugin:
            raise UserError("--root and --plugin are for datasets, not for your own table")
        preparing.prepare_table(Path(name), as_, columns, kind or [], rebuild, set_ or [], cache)
        return
    if as_ or columns or kind:
        from mmbench.own.table import TABLES

        raise UserError(
            f"--name, --columns and --kind are for your own table; {name!r} does not end in "
            f"{', '.join(sorted(TABLES))}"
        )
    preparing.prepare(name, root, rebuild, set_ or [], cache, plugin or [])


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="the dataset")],
    set_: Set = None,
    cache: Cache = None,
    results: Results = RESULTS,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Check a prepared dataset: hashes, counts, leaks; and is it the data of RESULTS/records?

    Example: mmbench verify avdigits

    The exit code is 1 if a check fails; what is only told, as samples that a source is known to
    hold twice, is no failure.
    """
    from mmbench.cli import preparing

    raise typer.Exit(preparing.verify(name, set_ or [], cache, results, plugin or [], json))


@app.command("test")
def test_(
    what: Annotated[str, typer.Argument(help="FILE.py, package.module, or a method's name")],
    json: Json = False,
) -> None:
    """Check a method against the contract. Example: mmbench test my_method.py"""
    from mmbench.cli import developing

    raise typer.Exit(developing.test(what, json))


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="its name on the command line, e.g. my-method")],
    folder: Annotated[Path, typer.Option(help="Where to write it.")] = Path(),
) -> None:
    """Write a working method to start from. Example: mmbench new-method my-method"""
    from mmbench.cli import developing

    developing.new_method(name, folder)


@app.command()
def clean(
    results: Results = RESULTS,
    failed: Annotated[bool, typer.Option(help="Remove failed attempts.")] = False,
    unfinished: Annotated[bool, typer.Option(help="Remove interrupted runs.")] = False,
    data: Annotated[
        str, typer.Option(help="Remove this dataset from CACHE, and forget an own table.")
    ] = "",
    cache: Cache = None,
    dry_run: Annotated[bool, typer.Option(help="Print what would go, and stop.")] = False,
    json: Json = False,
) -> None:
    """Remove failed or unfinished runs, never finished ones; or prepared data.

    Example: mmbench clean --failed
    """
    from mmbench.cli import browse

    if data:
        if failed or unfinished:
            raise UserError("--data is about the cache: type it without --failed and --unfinished")
        browse.clean_data(data, cache, dry_run, json)
        return
    browse.clean(results, failed, unfinished, dry_run, json)
