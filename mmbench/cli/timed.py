"""A study of time: were its finished cells run the way that the rest would be now?"""

from collections.abc import Iterable, Sequence

import torch

from mmbench.cell import Cell
from mmbench.cli.asking import Options
from mmbench.cli.submitting import as_run
from mmbench.launch.local import slots
from mmbench.launch.profile import Profile
from mmbench.record import Environment
from mmbench.settings import RunSettings
from mmbench.store import Store, read_record
from mmbench.training.device import choose, memory_format
from mmbench.training.environment import environment
from mmbench.wording import counted


def tell(
    done: Sequence[Cell], options: Options, settings: RunSettings, profile: Profile | None
) -> None:
    """Print how many finished cells were not run as this command would, as far as it is known.

    Args:
        done: the finished cells.
        options: as typed.
        settings: of this machine.
        profile: of the jobs that are to run the rest; None: they run here.
    """
    store = Store(options.results)
    asked = {name: _asked(name, options, settings, profile) for name in {c.dataset for c in done}}
    otherwise: list[str] = []
    alike: list[str] = []
    wanted: list[str] = []
    for cell in done:
        there = read_record(store.directory(cell).record_file, curve=False).environment
        here = asked[cell.dataset].model_copy(update={"kernels": there.kernels})  # known once built
        hidden = {"device_name": there.device_name} if profile else {}
        if _seen(there) == _seen(here.model_copy(update=hidden)):
            alike.append(there.hardware)
        else:
            otherwise.append(f"{there.hardware}, {there.way}")
            wanted.append(f"{here.hardware}, {here.way}")
    if otherwise:
        print(
            f"note: {counted(len(otherwise), 'finished cell')} ran another way "
            f"({_each(otherwise)}) than this command would ({_each(wanted)}); times stand in one "
            "table only with those taken the same way: to take all of them so, name a new folder "
            "with --results"
        )
    if alike and profile:
        print(
            f"note: {counted(len(alike), 'finished cell')} ran on {_each(alike)}; whether the "
            "nodes have the same is not known here, and times of other hardware stand in a table "
            "of their own"
        )


def _asked(
    dataset: str, options: Options, settings: RunSettings, profile: Profile | None
) -> Environment:
    """Return where and how this command would run the cells of a dataset."""
    if profile is None:
        place = slots(options.device, options.jobs, 1, options.threads, options.gpus_per_cell)[0]
        device = choose(place.device.split(",")[0])
        return environment(device, settings).model_copy(update={"threads": place.threads})
    run = as_run(settings, profile.resources(dataset), options)
    kind = run.device.partition(":")[0]
    layout = memory_format(torch.device(kind), run.memory_format)
    return environment(torch.device("cpu"), run).model_copy(
        update={
            "device": kind,
            "device_name": f"{kind} of a node",
            "threads": run.threads,
            "memory_format": layout,
        }
    )


def _seen(where: Environment) -> tuple[str, str, str]:
    return where.device, where.hardware, where.way


def _each(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts)))
