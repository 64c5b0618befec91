"""What methods and encoders may do beyond the built-in ones; also the program of two processes."""

import os
import socket
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from mmbench.errors import RanksDiffer
from mmbench.ranks.encoders import Split
from mmbench.ranks.functions import mean, total
from mmbench.ranks.group import ALONE, Ranks, join
from mmbench.ranks.rows import Rows


class Recurrent(nn.Module):
    """Keeps references to its weights, as torch's recurrent layers do."""

    def __init__(self):
        super().__init__()
        self.cells = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.cells(x)[0][:, -1]


class Normed(nn.Module):
    def __init__(self, momentum=0.1, affine=True):
        super().__init__()
        self.norm = nn.BatchNorm1d(5, momentum=momentum, affine=affine)

    def forward(self, x):
        return self.norm(x)


def model_of(encoder):
    torch.manual_seed(0)
    model = nn.Module()
    model.encoders = nn.ModuleDict({"m": encoder()})
    model.head = nn.Linear(4 if encoder is Recurrent else 5, 2)
    return model.double()


def rows_of(x, ranks):
    if ranks.size == 1:
        return x
    sizes = ranks.shares(len(x))
    return Rows(x[ranks.own(sizes)], sizes, ranks)


def batch(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def graded(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def recurrent_encoder(ranks):
    model = model_of(Recurrent)
    Split(model, ranks)
    model.head(model.encoders["m"](rows_of(batch(7, 2, 3), ranks))).square().sum().backward()
    return graded(model)


def penalty_on_weights(ranks):
    model = model_of(Normed)
    split = Split(model, ranks)
    loss = model.head(model.encoders["m"](rows_of(batch(5, 5), ranks))).square().mean()
    loss = loss + sum(p.square().sum() for p in model.encoders.parameters())
    with split.backward():
        loss.backward()
    return graded(model)


def gradients_added_up(ranks):
    model = model_of(Normed)
    split = Split(model, ranks)
    for _ in range(2):
        with split.backward():
            model.head(model.encoders["m"](rows_of(batch(5, 5), ranks))).square().sum().backward()
    return graded(model)


def second_derivative(ranks):
    model = model_of(Normed)
    Split(model, ranks)
    loss = model.head(model.encoders["m"](rows_of(batch(5, 5), ranks)).tanh()).square().sum()
    parameters = list(model.parameters())
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    squares = torch.stack([g.square().sum() for g in first]).sum()
    second = torch.autograd.grad(squares, parameters)
    return {str(i): g for i, g in enumerate((*first, *second))}


def gradient_of_inputs(ranks):
    model = model_of(Normed)
    Split(model, ranks)
    x = batch(5, 5).requires_grad_()
    loss = model.head(model.encoders["m"](x).tanh()).square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    (twice,) = torch.autograd.grad(gradient.square().sum(), x)
    return {"once": gradient, "twice": twice}


def average_without_momentum(ranks):
    model = model_of(lambda: Normed(momentum=None, affine=False))
    Split(model, ranks)
    with torch.no_grad():
        for scale in (1, 3):
            model.encoders["m"](rows_of(scale * batch(6, 5), ranks))
    return {k: v for k, v in model.state_dict().items() if "norm" in k}


def copied_encoder(ranks):
    model = model_of(Normed)
    Split(model, ranks)
    teacher = deepcopy(model.encoders["m"])
    model.encoders["m"].norm.weight.data.fill_(9.0)
    return {"z": teacher(rows_of(batch(5, 5), ranks)).detach()}


def few_rows(ranks):
    model = model_of(Normed)
    Split(model, ranks)
    model.head(model.encoders["m"](rows_of(batch(5, 5), ranks)[:2])).square().sum().backward()
    one = model.encoders["m"].eval()(rows_of(batch(5, 5), ranks)[1:2])
    return {**graded(model), "one": one.detach()}


def inputs_of_any_use(ranks):
    x = rows_of(batch(7, 3), ranks)
    whole = {"sum": x.sum(0), "row": x[4], "noisy": x + 1, "columns": x[:, 1:], "every": x[::2]}
    like = {"zeros": torch.zeros_like(x[:1]), "mean": torch.ones(1, 3).expand_as(x)}
    parts = {"first": x[:2], "last": x[5:], "most": x[1:6], "none": x[3:3], "same": x.detach()}
    found = {name: part.whole() if isinstance(part, Rows) else part for name, part in parts.items()}
    assert ranks.size == 1 or all(isinstance(part, Rows) for part in parts.values())
    assert not any(isinstance(each, Rows) for each in (*whole.values(), *like.values()))
    return {**whole, **like, **found}


def agreements(ranks):
    mine = torch.full((), float(ranks.rank))
    assert ranks.any(ranks.rank == ranks.size - 1)
    assert not ranks.any(False)
    assert ranks.number(ranks.rank + 5) == 5
    for text in ("", "ä cell", None):
        if ranks.first:
            ranks.tell(text)
        else:
            assert ranks.hear() == text
    if ranks.size > 1:
        assert mean(mine, ranks) == 0.5
        assert total(mine, ranks) == 1
    return {}


def drift(ranks):
    model = model_of(Normed)
    split = Split(model, ranks)
    model.head.weight.data.add_(1e-9 * ranks.rank)
    split.align()
    close = model.head.weight.detach().clone()
    model.head.weight.data.add_(ranks.rank)
    if ranks.size > 1:
        with pytest.raises(RanksDiffer, match=r"no longer agree on 'head\.weight'"):
            split.align()
    return {"close": close}


def failing_alone(ranks):
    if ranks.size > 1:
        ranks.grace = 0.3
        assert ranks.others() == "failed"
        if ranks.first:
            assert ranks.others() == "wait"
    return {}


# The last one leaves the processes out of step.
PIECES = {f.__name__: f for f in (
    recurrent_encoder, penalty_on_weights, gradients_added_up, second_derivative,
    gradient_of_inputs, average_without_momentum, copied_encoder, few_rows, inputs_of_any_use,
    agreements, drift, failing_alone,
)}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-P", __file__, str(folder)],
            env={**os.environ, **place, "MASTER_PORT": str(port), "RANK": str(r),
                 "LOCAL_RANK": str(r)},
            stderr=subprocess.PIPE, text=True,
        )
        for r in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [p.returncode for p in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(2)]


@pytest.mark.parametrize("piece", PIECES)
def test_two_processes_equal_one(piece, pair):
    one = PIECES[piece](ALONE)
    for two in pair:
        assert two[piece].keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[piece][name], value, rtol=1e-12, atol=1e-13)


def test_rows_are_dealt_in_order_and_evenly():
    three = Ranks(1, 3)
    assert three.shares(8) == (3, 3, 2)
    assert three.shares(2) == (1, 1, 0)
    assert three.own((3, 3, 2)) == slice(3, 6)


def main(folder):
    ranks, device = join("cpu")
    assert device == "cpu"
    torch.set_num_threads(1)
    found = {name: piece(ranks) for name, piece in PIECES.items()}
    detached = {k: {n: t.detach() for n, t in v.items()} for k, v in found.items()}
    torch.save(detached, folder / f"{ranks.rank}.pt")
    while not (folder / "0.pt").exists():  # alive until the first is done, which asks for it
        time.sleep(0.05)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
