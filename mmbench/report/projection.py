"""The features of a trained model on a plane: which classes it tells apart, and by what."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mmbench.report.drawing import COLOURS, MARKERS, new_figure, save, styled

Projection = Literal["pca", "tsne"]
FUSED = "fused"
WORDS = {
    "pca": "principal components; in brackets: share of the variance",
    "tsne": "t-SNE; only who is near whom means anything, not how far",
}


def side_by_side(features: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.floating]]:
    """Return the features as fusion by concatenation sees them, and each modality's own."""
    if len(features) == 1:
        return dict(features)
    return {FUSED: np.concatenate(list(features.values()), axis=1), **features}


def project(
    features: NDArray[np.floating], kind: Projection
) -> tuple[NDArray[np.float64], tuple[float, float] | None]:
    """Return where each sample lies, [N, 2], and the share of the variance of both axes.

    Args:
        features: [N, d], at least three samples.
        kind: ``pca``, or ``tsne`` from the principal components, with a fixed seed; it has no
            shares.
    """
    centred = np.asarray(features, float) - features.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    # The sign of a component is arbitrary; this one does not depend on the library.
    sign = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    scores = left * size * sign
    if kind == "pca":
        share = size**2 / max(float((size**2).sum()), np.finfo(float).tiny)
        return scores[:, :2], (float(share[0]), float(share[1]))
    from sklearn.manifold import TSNE

    drawn = TSNE(perplexity=min(30, (len(scores) - 1) / 3), init="pca", random_state=0)
    return np.asarray(drawn.fit_transform(scores[:, :50]), float), None


def draw(
    title: str,
    kind: Projection,
    features: Mapping[str, NDArray[np.floating]],
    label: NDArray[np.integer],
    classes: Sequence[str],
) -> Figure:
    """Draw a panel for the fused features and for each modality; a class looks alike in all.

    Args:
        title: above all panels.
        kind: how the features come onto a plane.
        features: of every modality, [N, d].
        label: class of every sample, [N].
        classes: their names.
    """
    panels = side_by_side(features)
    figure = new_figure(0.3 + 2.5 * len(panels), 3.2)
    figure.suptitle(f"{title}\n{WORDS[kind]}", fontsize=8)
    for number, (name, values) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        places, shares = project(values, kind)
        for i in np.unique(label):
            own = places[label == i]
            filled = i < len(COLOURS)  # the colours come round again
            colour = COLOURS[i % len(COLOURS)]
            axes.scatter(
                own[:, 0], own[:, 1], s=7, marker=MARKERS[i % len(MARKERS)], linewidths=0.5,
                color=colour if filled else "none", edgecolors=colour, alpha=0.7,
                label=str(classes[i]) if number == 0 else None,
            )  # fmt: skip
        axes.set_title(name, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        if shares:
            axes.set_xlabel(f"1st ({100 * shares[0]:.0f} %)")
            axes.set_ylabel(f"2nd ({100 * shares[1]:.0f} %)")
    figure.legend(loc="outside lower center", ncols=min(10, 4 * len(panels)), fontsize=7,
                  handletextpad=0.1)  # fmt: skip
    return figure


def write_features(
    folder: Path,
    name: str,
    kind: Projection,
    features: Mapping[str, NDArray[np.floating]],
    label: NDArray[np.integer],
    classes: Sequence[str],
) -> list[Path]:
    """Write the figure of one cell as SVG and PDF; return the files."""
    with styled():
        figure = draw(f"Features of the test split: {name}", kind, features, label, classes)
        return save(figure, folder, f"features-{kind}-{name}")
