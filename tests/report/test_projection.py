"""Features on a plane: where the samples lie, worked by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from mmbench.report.projection import draw, project, side_by_side, write_features


def rng(seed=0):
    return np.random.default_rng(seed)


def test_principal_components_are_those_of_scikit_learn_but_for_the_sign():
    values = rng().normal(size=(40, 6)) @ rng(1).normal(size=(6, 6)) + 3
    places, shares = project(values, "pca")
    oracle = PCA(2).fit(values)
    assert np.abs(places) == pytest.approx(np.abs(oracle.transform(values)))
    assert shares == pytest.approx(tuple(oracle.explained_variance_ratio_))


def test_points_of_a_line_keep_their_distances():
    places, shares = project(np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), "pca")
    assert sorted(places[:, 0]) == pytest.approx([-5.0, 0.0, 5.0])
    assert shares == pytest.approx((1.0, 0.0))


def test_tsne_keeps_clusters_together_and_comes_again():
    values = np.concatenate([rng(2).normal(size=(15, 4)), rng(3).normal(size=(15, 4)) + 20])
    places, shares = project(values, "tsne")
    centres = places[:15].mean(0), places[15:].mean(0)
    nearer = [np.linalg.norm(places - c, axis=1) for c in centres]
    assert ((nearer[0] < nearer[1]) == (np.arange(30) < 15)).all()
    assert shares is None
    assert (project(values, "tsne")[0] == places).all()


def test_fused_features_are_those_of_all_modalities():
    found = side_by_side({"a": np.zeros((3, 2)), "b": np.ones((3, 1))})
    assert list(found) == ["fused", "a", "b"]
    assert found["fused"].tolist() == [[0, 0, 1]] * 3
    assert list(side_by_side({"a": np.zeros((3, 2))})) == ["a"]


def test_figure_has_a_panel_each_and_names_every_class(tmp_path):
    features = {"a": rng(4).normal(size=(20, 3)), "b": rng(5).normal(size=(20, 2))}
    label, classes = np.arange(20) % 10, [f"class {i}" for i in range(10)]
    figure = draw("T", "pca", features, label, classes)
    assert [axes.get_title() for axes in figure.axes] == ["fused", "a", "b"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == classes
    files = write_features(tmp_path, "x", "pca", features, label, classes)
    assert [file.name for file in files] == ["features-pca-x.svg", "features-pca-x.pdf"]
