"""What only a GPU can show; every test here is left out on a machine without one."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mmbench.registry import METHODS
from mmbench.settings import RunSettings, TrainerSettings
from mmbench.sweep import Request, expand
from mmbench.testing.speed import LATE, audiovisual, make_trainer, random_loader, steps_seconds
from mmbench.training.run_cell import run_cell

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

CUDA = torch.device("cuda")
DRAWS = {"ogm-ge"}  # its noise comes from the device's own generator


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return what makes the record of a cell of three epochs on the handwritten digits."""
    cache = tmp_path_factory.mktemp("cache")
    request = Request(
        methods=[], datasets=["mfeat3"], seeds=[0], protocol="validated",
        fidelity="corrected", preset="common", settings={},
        shared={"trainer.epochs": 3},
    )  # fmt: skip

    def train(method, shared=None, device="cuda", dataset="mfeat3", settings=None, **run):
        wanted = replace(
            request, methods=[method], datasets=[dataset],
            shared=request.shared | (shared or {}), settings=settings or {},
        )  # fmt: skip
        cell, *_ = expand(wanted, cache)
        folder = tmp_path_factory.mktemp("results")
        how = RunSettings(device=device, threads=2, **run)
        record = run_cell(cell, results=folder, cache=cache, run=how)
        assert record.status == "done", record.failure
        return record

    return train


def losses(record):
    return [row.train["loss"] for row in record.curve]


@pytest.mark.parametrize("method", [m for m in METHODS.names() if m not in DRAWS])
def test_a_gpu_trains_as_the_cpu_does(method, trained):
    there, here = trained(method), trained(method, device="cpu")
    assert losses(there) == pytest.approx(losses(here), rel=2e-3)
    assert there.environment.device == there.memory.kind == "cuda"
    assert there.environment.device_name == torch.cuda.get_device_name()


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_faster_precisions_train_alike_within_their_rounding(precision, trained):
    fast = trained("iprm", {"trainer.precision": precision})
    assert losses(fast) == pytest.approx(losses(trained("iprm")), rel=0.05)
    assert fast.cell.trainer.precision == precision


@pytest.mark.parametrize("method", ["concat", "iprm", "mmpareto", "lfm"])
def test_compiled_encoders_train_alike(method, trained):
    compiled = trained(method, compile=True)
    assert compiled.environment.compiled
    assert losses(compiled) == pytest.approx(losses(trained(method)), rel=2e-3)


@pytest.mark.parametrize("method", ["concat", "iprm", "agm", "mmpareto"])
@pytest.mark.parametrize("compiled", [False, True])
def test_resnets_train_as_on_a_cpu(method, compiled, trained):
    resnets = {"encoder.image": "resnet18", "encoder.audio": "resnet18", "trainer.epochs": 1}
    there = trained(method, resnets, dataset="avdigits", compile=compiled)
    here = trained(method, resnets, dataset="avdigits", device="cpu")
    assert there.environment.kernels
    assert not here.environment.kernels
    assert losses(there) == pytest.approx(losses(here), rel=0.05)


def test_a_weight_learned_from_second_derivatives_trains_through_resnets(trained):
    resnets = {"encoder.image": "resnet18", "encoder.audio": "resnet18", "trainer.epochs": 1}
    learned = {"lfm.weight": "learned_official"}
    assert losses(trained("lfm", resnets, dataset="avdigits", settings=learned))


def test_data_that_stays_in_memory_trains_alike(trained):
    assert losses(trained("iprm", resident_fraction=0.0)) == pytest.approx(losses(trained("iprm")))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS.names())
def test_no_step_waits_for_the_device(method, precision, tmp_path):
    task = audiovisual((1, 33, 33), (3, 2, 33, 33), 3)
    changes = {"visual": "each.crop+each.flip"}  # as of datasets of videos
    loader = random_loader(task, 16, 8, CUDA, "float16", changes)
    settings = TrainerSettings.model_validate({"precision": precision, "batch_size": 8})
    trainer = make_trainer(method, task, loader, settings, tmp_path)
    for epoch in (LATE, LATE + 1):
        steps_seconds(trainer, epoch, may_wait=False)
    assert trainer.step == 4


def test_the_number_of_cells_on_a_gpu_is_chosen_and_told(tmp_path):
    command = [sys.executable, "-P", "-m", "mmbench", "run", "--methods", "concat,iprm"]
    command += ["--datasets", "mfeat3", "--device", "cuda", "--per-gpu", "auto", "--seeds", "2"]
    command += ["--set", "trainer.epochs=1", "--results", str(tmp_path / "results")]
    done = subprocess.run(
        [*command, "--cache", str(tmp_path / "cache")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 cells at once on each GPU: the largest needs" in " ".join(done.stdout.split())
