"""How unevenly the modalities of a trained model count: Shapley shares and linear probes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from mmbench.data.loader import Loader
from mmbench.method import Method
from mmbench.nets.modes import evaluating
from mmbench.record import Imbalance

MOST = 5  # modalities: 2^M passes over the split
PROBE_STEPS = 200


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all subsets of ``names``, the empty one first, the full one last."""
    return [s for size in range(len(names) + 1) for s in combinations(names, size)]


def shapley(value: Callable[[tuple[str, ...]], float], names: Sequence[str]) -> dict[str, float]:
    """Return phi_m = sum over S without m of |S|! (M-|S|-1)! / M! (v(S + m) - v(S)).

    The shares add up to v(all) - v(none).

    Args:
        value: what a subset reaches; called with the names in their order.
        names: all modalities.
    """
    count, share = len(names), dict.fromkeys(names, 0.0)
    for present in subsets(names)[:-1]:  # nobody can join the full one
        weight = factorial(len(present)) * factorial(count - len(present) - 1) / factorial(count)
        for m in set(names) - set(present):
            larger = tuple(n for n in names if n in present or n == m)
            share[m] += weight * (value(larger) - value(present))
    return share


@torch.no_grad()
def measure(method: Method, train: Loader, test: Loader) -> tuple[Imbalance, dict[str, Tensor]]:
    """Return the imbalance that training has reached, at the weights the method has now.

    With it the logits [N, C] of every prediction on ``test`` with all inputs, which the encoders
    need not make again.

    A subset's value is the accuracy of the fused prediction on ``test`` with the inputs of the
    other modalities replaced by their mean over ``train``. A probe is a logistic regression on an
    encoder's frozen features, fitted on ``train``; set against the unimodal model's accuracy it
    tells how far the encoder was held back. Encoders run as written, whatever is compiled: this is
    done once, for inputs like no others.

    Args:
        method: trained; it is evaluated in eval mode.
        train: the training split, without augmentation.
        test: where accuracies are taken.
    """
    few = len(method.names) <= MOST
    means = _means(train, method.names) if few else {}
    with torch.compiler.set_stance("force_eager"), evaluating(method):
        # All inputs first: a method that changes features in place spoils what is recalled later.
        asked = subsets(method.names)[::-1] if few else [method.names]
        reached, tested, logits = _tested(method, test, asked, means)
        probe = _probe(method, train, test.label, tested)
    imbalance = Imbalance(
        fill="mean of the training inputs",
        subsets={"+".join(s): reached[s] for s in subsets(method.names)} if few else {},
        shapley=shapley(lambda s: reached[s], method.names) if few else {},
        probe=probe,
    )
    return imbalance, logits


def _means(loader: Loader, names: Iterable[str]) -> dict[str, Tensor]:
    """Return each modality's mean input, [1, *shape]; of a text, padding alone."""
    sums: dict[str, Tensor] = {}
    for batch in loader.everything():
        for m in names:
            part = batch.inputs[m].sum(0, keepdim=True)
            sums[m] = sums[m] + part if m in sums else part
    return {
        m: total / len(loader) if total.is_floating_point() else torch.zeros_like(total)
        for m, total in sums.items()
    }


class _Recalling(nn.Module):
    """An encoder that does not encode the very same tensor twice."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}  # with the input: its id stays its own

    def __getattr__(self, name: str) -> Any:  # Any: whatever else a method asks an encoder for
        encoder = super().__getattr__("encoder")
        return encoder if name == "encoder" else getattr(encoder, name)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the encoder makes of ``x``, or made of it before."""
        if id(x) not in self.seen:
            self.seen[id(x)] = (x, self.encoder(x))
        return self.seen[id(x)][1]

    def forget(self, but: Sequence[Tensor]) -> None:
        """Forget all tensors but those."""
        kept = set(map(id, but))
        self.seen = {key: pair for key, pair in self.seen.items() if key in kept}


# 2^M subsets ask each encoder for two things only: the features of a batch, and of the mean.
@contextmanager
def _recalling(method: Method) -> Iterator[dict[str, _Recalling]]:
    """Let the encoders recall what they made of a tensor, in eval mode and without gradients."""
    recalling = {m: _Recalling(encoder).eval() for m, encoder in method.encoders.items()}
    method.encoders.update(recalling)
    try:
        yield recalling
    finally:
        method.encoders.update({m: each.encoder for m, each in recalling.items()})


def _tested(
    method: Method,
    loader: Loader,
    asked: Sequence[tuple[str, ...]],
    means: Mapping[str, Tensor],
) -> tuple[dict[tuple[str, ...], float], dict[str, np.ndarray], dict[str, Tensor]]:
    """Return each subset's accuracy, each encoder's features [N, d], and logits of all inputs."""
    hits = dict.fromkeys(asked, torch.zeros((), device=loader.device))
    parts: dict[str, list[Tensor]] = {m: [] for m in method.names}
    logits: dict[str, list[Tensor]] = {}
    fill: dict[str, Tensor] = {}
    size = 0
    with _recalling(method) as encoders:
        for batch in loader.everything():
            if len(batch.label) != size:  # else the very same tensors, to be recalled
                size = len(batch.label)
                fill = {m: mean.expand(size, *mean.shape[1:]) for m, mean in means.items()}
            for m, z in method.encode(batch.inputs).items():
                parts[m].append(z.to("cpu", torch.float32, copy=True))
            for present in asked:
                inputs = {m: batch.inputs[m] if m in present else fill[m] for m in method.names}
                predicted = method.predict(inputs)
                hit = (predicted["fused"].argmax(1) == batch.label).sum()
                hits[present] = hits[present] + hit
                if present == asked[0]:
                    for name, each in predicted.items():
                        logits.setdefault(name, []).append(each.clone())
                for m, encoder in encoders.items():  # but not what a method made of its inputs
                    encoder.forget(but=(batch.inputs[m], *([fill[m]] if fill else [])))
            for m, encoder in encoders.items():
                encoder.forget(but=[fill[m]] if fill else [])
    accuracy = {s: float(n) / len(loader) for s, n in hits.items()}
    features = {m: torch.cat(z).numpy() for m, z in parts.items()}
    return accuracy, features, {name: torch.cat(each) for name, each in logits.items()}


def _probe(
    method: Method, train: Loader, label: Tensor, asked: Mapping[str, np.ndarray]
) -> dict[str, float]:
    fitted = features(method, train)
    scores = {}
    for m in method.names:
        if not (np.isfinite(fitted[m]).all() and np.isfinite(asked[m]).all()):
            continue  # an encoder that diverged while the fused loss stayed finite
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=PROBE_STEPS, tol=1e-3))
        probe.fit(fitted[m], train.label.numpy())
        scores[m] = float(probe.score(asked[m], label.numpy()))
    return scores


@torch.no_grad()
def features(method: Method, loader: Loader) -> dict[str, np.ndarray]:
    """Return what each encoder makes of a split, [N, d], in its order, in eval mode."""
    parts: dict[str, list[Tensor]] = {m: [] for m in method.names}
    with evaluating(method):
        for batch in loader.everything():
            for m, z in method.encode(batch.inputs).items():
                parts[m].append(z.float().cpu())
    return {m: torch.cat(z).numpy() for m, z in parts.items()}
