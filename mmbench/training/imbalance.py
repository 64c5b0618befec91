"""How unevenly the modalities of a trained model count: Shapley shares and linear probes."""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from math import factorial

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mmbench.data.loader import Loader
from mmbench.method import Method
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
def measure(method: Method, train: Loader, test: Loader) -> Imbalance:
    """Return the imbalance that training has reached, at the weights the method has now.

    A subset's value is the accuracy of the fused prediction on ``test`` with the inputs of the
    other modalities replaced by their mean over ``train``. A probe is a logistic regression on an
    encoder's frozen features, fitted on ``train``; set against the unimodal model's accuracy it
    tells how far the encoder was held back.

    Args:
        method: trained; it is evaluated in eval mode.
        train: the training split, without augmentation.
        test: where accuracies are taken.
    """
    training = method.training
    method.eval()
    names = method.names
    reached: dict[tuple[str, ...], float] = {}
    if len(names) <= MOST:
        means = _means(train, names)
        reached = {s: _accuracy(method, test, s, means) for s in subsets(names)}
    probe = _probe(method, train, test)
    method.train(training)
    return Imbalance(
        fill="mean of the training inputs",
        subsets={"+".join(s): v for s, v in reached.items()},
        shapley=shapley(lambda s: reached[s], names) if reached else {},
        probe=probe,
    )


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


def _accuracy(
    method: Method, loader: Loader, present: tuple[str, ...], means: dict[str, Tensor]
) -> float:
    hits = torch.zeros((), device=loader.device)
    for batch in loader.everything():
        inputs = {
            m: x if m in present else means[m].expand_as(x)
            for m, x in batch.inputs.items()
            if m in means
        }
        hits += (method.predict(inputs)["fused"].argmax(1) == batch.label).sum()
    return float(hits) / len(loader)


def _probe(method: Method, train: Loader, test: Loader) -> dict[str, float]:
    fitted, asked = features(method, train), features(method, test)
    scores = {}
    for m in method.names:
        if not (np.isfinite(fitted[m]).all() and np.isfinite(asked[m]).all()):
            continue  # an encoder that diverged while the fused loss stayed finite
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=PROBE_STEPS, tol=1e-3))
        probe.fit(fitted[m], train.label.numpy())
        scores[m] = float(probe.score(asked[m], test.label.numpy()))
    return scores


@torch.no_grad()
def features(method: Method, loader: Loader) -> dict[str, np.ndarray]:
    """Return what each encoder makes of a split, [N, d], in its order, in eval mode."""
    training = method.training
    method.eval()
    parts: dict[str, list[Tensor]] = {m: [] for m in method.names}
    for batch in loader.everything():
        for m, z in method.encode(batch.inputs).items():
            parts[m].append(z.float().cpu())
    method.train(training)
    return {m: torch.cat(z).numpy() for m, z in parts.items()}
