"""How a cell is executed changes its numbers by rounding only, and the record tells how it was."""

import gc
import shutil
from dataclasses import replace
from math import prod

import pytest
import torch

from mmbench.contract.waiting import DEVICE, call_without_waiting
from mmbench.data.loader import Loader
from mmbench.method import ParameterGroup
from mmbench.registry import METHODS
from mmbench.settings import RunSettings, TrainerSettings
from mmbench.sweep import Request, expand
from mmbench.testing.speed import audiovisual, make_trainer, random_loader
from mmbench.training.checkpoint import clone
from mmbench.training.device import memory_format
from mmbench.training.imbalance import measure
from mmbench.training.layout import arrange
from mmbench.training.optimizers import Optimizers
from mmbench.training.run_cell import run_cell

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return what makes the record of a short cell, from shared and run settings."""
    cache = tmp_path_factory.mktemp("cache")
    request = Request(
        methods=["concat"], datasets=["avdigits"], seeds=[0], protocol="validated",
        fidelity="corrected", preset="common", settings={},
        shared={"trainer.epochs": 2},
    )  # fmt: skip

    def train(shared=None, methods=("concat",), settings=None, **run):
        wanted = replace(
            request,
            methods=list(methods),
            settings=settings or {},
            shared=request.shared | (shared or {}),
        )
        (cell,) = expand(wanted, cache)
        run = RunSettings(device="cpu", threads=1, **run)
        folder = tmp_path_factory.mktemp("results")
        return run_cell(cell, results=folder, cache=cache, run=run)

    return train


def losses(record):
    return [row.train["loss"] for row in record.curve]


@pytest.fixture(scope="module")
def plain(trained):
    return trained()


@pytest.mark.slow
def test_channels_last_changes_rounding_only(trained, plain):
    record = trained(memory_format="channels_last")
    assert losses(record) == pytest.approx(losses(plain), rel=1e-4)
    assert record.environment.memory_format == "channels_last"
    assert plain.environment.memory_format == "contiguous"
    assert record.cell_id == plain.cell_id


@pytest.mark.parametrize("method", ["concat", "agm", "mmpareto"])
def test_a_step_in_double_precision_is_the_same_in_either_layout(method, tmp_path):
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)
    (batch,) = random_loader(task, 4, 4, CPU).everything()
    batch = replace(batch, inputs={m: x.double() for m, x in batch.inputs.items()})
    changed = []
    for layout in ("contiguous", "channels_last"):
        run = RunSettings(memory_format=layout)
        loader, settings = random_loader(task, 4, 4, CPU), TrainerSettings(batch_size=4)
        trainer = make_trainer(method, task, loader, settings, tmp_path / layout, run)
        trainer.method.double()
        trainer.epoch = trainer.step_in_epoch = 0
        trainer.method.on_epoch_start()
        trainer.method.step(batch)
        changed.append({n: p.detach().clone() for n, p in trainer.method.named_parameters()})
    torch.testing.assert_close(*changed, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler here")
def test_compiled_encoders_change_rounding_only(trained, plain, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    record = trained(compile=True)
    assert record.status == "done", record.failure
    assert losses(record) == pytest.approx(losses(plain), rel=1e-4)
    assert record.environment.compiled
    assert not plain.environment.compiled


@pytest.mark.slow
def test_compiled_code_serves_the_next_cell_and_no_kind_of_input_falls_back(trained, monkeypatch):
    def graphs_only(module, dynamic):  # nothing to build
        module._compiled_call_impl = compiled(module._call_impl, backend="eager", dynamic=dynamic)

    compiled = torch.compile
    monkeypatch.setattr(torch.nn.Module, "compile", graphs_only)
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: compiled(f, backend="eager"))
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    for method in ("concat", "iprm"):  # which has a function of its own to compile
        trained(methods=[method], compile=True)
        first = counted["unique_graphs"]
        trained(methods=[method], compile=True)
        assert counted["unique_graphs"] == first > 0
    record = trained({"trainer.precision": "fp64", "trainer.epochs": 1}, compile=True)
    assert record.status == "done", record.failure
    assert counted["unique_graphs"] > 8  # what torch allows by itself


def test_nothing_is_compiled_to_measure_the_imbalance_reached(tmp_path):
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)
    loader = random_loader(task, 12, 6, CPU)
    method = make_trainer("concat", task, loader, TrainerSettings(batch_size=6), tmp_path).method
    for encoder in method.encoders.values():
        encoder.compile(backend="eager")
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    measure(method, loader, loader)
    assert counted["unique_graphs"] == 0
    method.encode(next(loader.in_order(torch.arange(2))).inputs)
    assert counted["unique_graphs"] > 0


@pytest.mark.slow
def test_the_fused_optimiser_changes_rounding_only(trained, plain, monkeypatch):
    monkeypatch.setattr("mmbench.training.optimizers.FUSED", ())
    assert losses(trained()) == pytest.approx(losses(plain), rel=1e-4)


@pytest.mark.slow
def test_data_read_from_the_memory_map_trains_alike(trained, plain):
    record = trained(resident_fraction=0.0)
    assert losses(record) == losses(plain)
    assert record.final == plain.final


@pytest.mark.slow
def test_nothing_of_a_cell_is_left_when_it_ends(trained):
    gc.collect()
    gc.disable()  # a worker's next cell may begin before it would come by
    try:
        trained()
        assert not [each for each in gc.get_objects() if type(each) is Loader]
    finally:
        gc.enable()


def test_channels_last_is_for_images_and_volumes_alike():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.volume = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv3d(3, 4, 3)
            self.register_buffer("vector", torch.zeros(4))
            self.encoders = {}

    net = Net()
    arrange(net, CPU, RunSettings(memory_format="channels_last"))
    assert net.image.weight.is_contiguous(memory_format=torch.channels_last)
    assert net.volume.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert net.volume(torch.ones(1, 3, 4, 4, 4)).shape == (1, 4, 2, 2, 2)


def test_half_precision_uses_the_weights_of_this_moment_with_their_gradients(tmp_path):
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)
    loader = random_loader(task, 4, 2, CPU)
    settings = TrainerSettings(precision="bf16", batch_size=2)
    trainer = make_trainer("sum", task, loader, settings, tmp_path)
    layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    with trainer.autocast():
        with torch.no_grad():
            before = layer(x)
            layer.weight.add_(1.0)  # as an optimiser's step between two modalities
        after = layer(x)
    assert before.dtype is torch.bfloat16
    assert after.requires_grad
    assert float((after - before).detach().min()) == pytest.approx(3.0, abs=0.1)


def test_what_a_method_does_between_epochs_has_the_precision_of_its_steps(tmp_path):
    seen = {}
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)
    loader = random_loader(task, 4, 2, CPU)
    settings = TrainerSettings(precision="bf16", batch_size=2, epochs=1)
    trainer = make_trainer("sum", task, loader, settings, tmp_path)
    for name in ("on_fit_start", "on_epoch_start", "on_epoch_end"):
        setattr(
            trainer.method,
            name,
            lambda *args, name=name: seen.update({name: torch.is_autocast_enabled("cpu")}),
        )
    trainer.train()
    assert seen == {"on_fit_start": True, "on_epoch_start": True, "on_epoch_end": True}
    assert not torch.is_autocast_enabled("cpu")


def test_single_precision_is_exact_unless_a_faster_one_is_asked_for(tmp_path):
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)
    loader = random_loader(task, 4, 2, CPU)
    for precision, convolutions, products in (
        ("tf32", True, True),
        ("bf16", True, False),  # of evaluation
        ("fp32", False, False),
    ):
        settings = TrainerSettings.model_validate({"precision": precision, "batch_size": 2})
        make_trainer("sum", task, loader, settings, tmp_path)
        assert torch.backends.cudnn.allow_tf32 is convolutions
        assert torch.backends.cuda.matmul.allow_tf32 is products


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler here")
def test_compiled_code_of_one_method_serves_those_that_go_backward_twice(trained, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    small = {"trainer.epochs": 1}
    assert trained(small, compile=True).status == "done"
    twice = trained(small, methods=["mmpareto"], compile=True)
    assert twice.status == "done", twice.failure
    settings = {"lfm.weight": "learned_official"}
    learned = trained(small, methods=["lfm"], settings=settings, compile=True)
    assert learned.status == "done", learned.failure


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 1, 3, 3), (4, 3, 2, 3, 3), (4, 3), ()])
def test_a_run_goes_on_alike_in_another_memory_layout(kind, shape):
    def go_on(layout, seeds, state=None):
        net = torch.nn.Module()
        net.weight = torch.nn.Parameter(torch.arange(prod(shape)).float().view(shape))
        net.encoders = {}
        arrange(net, CPU, RunSettings(memory_format=layout))
        optimizers = Optimizers(net, settings)
        optimizers.create("main", [ParameterGroup("all", (net.weight,))])
        if state is not None:
            net.load_state_dict(state[0])
            optimizers.load(state[1])
        for seed in seeds:
            torch.manual_seed(seed)
            grad = torch.randn(shape)  # drawn alike, whatever the layout
            net.weight.grad = torch.empty_like(net.weight).copy_(grad)
            optimizers.by_name["main"].step()
        return clone((net.state_dict(), optimizers.state()))

    settings = TrainerSettings(optimizer=kind, lr=0.1)
    uninterrupted, _ = go_on("contiguous", range(6))
    continued, _ = go_on("contiguous", range(3, 6), go_on("contiguous", range(3)))
    assert torch.equal(continued["weight"], uninterrupted["weight"])
    for first, second in (("contiguous", "channels_last"), ("channels_last", "contiguous")):
        continued, _ = go_on(second, range(3, 6), go_on(first, range(3)))
        torch.testing.assert_close(continued["weight"], uninterrupted["weight"])


def test_a_gpu_gets_channels_last_unless_told_otherwise():
    cuda = torch.device("cuda")
    assert memory_format(cuda, "auto") == "channels_last"
    assert memory_format(CPU, "auto") == "contiguous"
    assert memory_format(cuda, "contiguous") == "contiguous"


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_the_fused_step_is_the_plain_one(kind, monkeypatch):
    steps = []
    for fused in (("cpu",), ()):
        monkeypatch.setattr("mmbench.training.optimizers.FUSED", fused)
        torch.manual_seed(0)
        model = torch.nn.Linear(7, 5, dtype=torch.float64)
        settings = TrainerSettings.model_validate({"optimizer": kind, "weight_decay": 1e-3})
        optimizers = Optimizers(model, settings)

        optimizers.create("main", [ParameterGroup("all", tuple(model.parameters()))])
        for _ in range(5):
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizers.by_name["main"].step()
        steps.append(model.weight.detach().clone())
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", METHODS.names())
def test_no_step_of_an_epoch_waits_for_the_device(name, tmp_path):
    task = audiovisual((1, 33, 33), (3, 1, 33, 33), 3)
    loader = random_loader(task, 12, 6, DEVICE, "float16")
    assert len(loader) == 12
    trainer = make_trainer(name, task, loader, TrainerSettings(batch_size=6), tmp_path)
    trainer.method.on_epoch_start()
    call_without_waiting(trainer.train_steps)
    assert trainer.step == 2
