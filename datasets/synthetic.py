"""Gaussian classes whose modalities are as strong, as redundant and as fast as asked.

Generative model. The label y is uniform over C classes. With probability ``redundancy`` a sample
is shared: every modality carries its class. Else it is unique: one modality, drawn uniformly,
carries it and the others carry nothing. In modality m

    x_m = v_m R_m (s_m e_y + sigma_m n)  where the class is carried,  v_m R_m sigma_m n  elsewhere

with orthonormal class directions e_1..e_C, standard normal n, and a random rotation R_m that hides
the axes. The scale v_m (``speed``) is seen by gradient descent and not by an ideal classifier:
it slows a modality down without making it weaker.

Given what it carries, the best guess from x_m is the class whose direction it is closest to, in
either case. With a = s_m / sigma_m, a modality that carries the class is right with probability

    A(a) = integral of phi(t - a) Phi(t)^(C - 1) dt

(C orthogonal signals in noise), else with 1/C. So its Bayes-optimal accuracy is

    pi A(a) + (1 - pi) / C,   pi = redundancy + (1 - redundancy) / M

Label noise replaces a label of train and val by another class with the given probability; test
stays clean. Symmetric noise does not move the Bayes rule, so the accuracies stand.

Where every sample is shared, all modalities together are one of strength sqrt(sum_m a_m^2), so the
best possible accuracy is A of that. It rises with ``imbalance``: what a method can gain shrinks.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import integrate, stats

from mmbench.dataset import (
    SPLITS,
    Dataset,
    DatasetConfig,
    DatasetInfo,
    Modality,
    SplitArrays,
    Task,
)
from mmbench.registry import register_dataset
from mmbench.settings import setting

Array = NDArray[np.float64]
PerModality = dict[str, Annotated[float, Field(gt=0)]]
OWN = "mmbench"


class SyntheticConfig(DatasetConfig):
    """Options of synthetic."""

    modalities: int = setting(2, "number of modalities, m1, m2, ... (M)", source=OWN, ge=1, le=8)
    classes: int = setting(6, "number of classes (C)", source=OWN, ge=2, le=100)
    features: int = setting(32, "length of each modality's vector", source=OWN, ge=2, le=4096)
    train: int = setting(1200, "training samples", source=OWN, ge=2)
    val: int = setting(300, "validation samples", source=OWN, ge=2)
    test: int = setting(1000, "test samples", source=OWN, ge=2)
    strength: float = setting(2.5, "mean separation in units of noise (s)", source=OWN, gt=0)
    imbalance: float = setting(
        0.4, "first modality (1 + this), last (1 - this) times the strength, linear between",
        source=OWN, ge=0, lt=1,
    )  # fmt: skip
    strengths: PerModality = setting({}, "separation of single modalities, instead", source=OWN)
    noise: PerModality = setting({}, "noise of single modalities (sigma); else 1", source=OWN)
    speed: PerModality = setting(
        {}, "scale of single modalities' inputs (v); else 1: small is learned slowly", source=OWN
    )
    redundancy: float = setting(
        1.0, "share of samples whose class every modality carries", source=OWN, ge=0, le=1
    )
    label_noise: float = setting(
        0.0, "share of training and validation labels replaced by another", source=OWN, ge=0, lt=1
    )
    draw: int = setting(0, "seed of the data; another draw of the same model", source=OWN, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "SyntheticConfig":
        names = {f"m{i + 1}" for i in range(self.modalities)}
        for key in ("strengths", "noise", "speed"):
            unknown = sorted(set(getattr(self, key)) - names)
            if unknown:
                raise ValueError(
                    f"{key} names {', '.join(unknown)}; with modalities={self.modalities} there "
                    f"are {', '.join(sorted(names))}"
                )
        if self.features < self.classes:
            raise ValueError(
                f"features={self.features} has no room for {self.classes} orthogonal classes; "
                "give features >= classes"
            )
        return self


def carried_accuracy(ratio: float, classes: int) -> float:
    """Return A(a): the share of right guesses among C orthogonal signals of strength ``ratio``."""

    def density(t: float) -> float:
        return float(stats.norm.pdf(t - ratio) * stats.norm.cdf(t) ** (classes - 1))

    return float(integrate.quad(density, -8.0, ratio + 8.0, points=[0.0, ratio], limit=200)[0])


@register_dataset("synthetic")
class Synthetic(Dataset):
    """Gaussian classes with knobs for strength, imbalance, redundancy, speed and label noise."""

    Config = SyntheticConfig
    info = DatasetInfo(
        title="Gaussian classes whose modalities are as strong, redundant and fast as asked",
        licence="none needed: it is drawn from a formula",
        source="drawn when prepared, from a seed",
        real="nothing: all of it is synthetic",
    )
    embedded = True
    generator = True
    trainer = {"epochs": 20}
    config: SyntheticConfig

    @property
    def task(self) -> Task:
        """C classes from M vectors."""
        config = self.config
        modalities = tuple(Modality(m, "vector", (config.features,)) for m in self.names)
        return Task(modalities, tuple(f"class {c}" for c in range(config.classes)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(f"m{i + 1}" for i in range(self.config.modalities))

    def strengths(self) -> dict[str, float]:
        """Return s_m."""
        config, count = self.config, self.config.modalities
        lean = np.linspace(1, -1, count) if count > 1 else np.zeros(1)
        return {
            m: config.strengths.get(m, config.strength * (1 + config.imbalance * float(x)))
            for m, x in zip(self.names, lean, strict=True)
        }

    def bayes_accuracy(self) -> dict[str, float]:
        """Return the accuracy on test of the best possible classifier of each modality alone."""
        config = self.config
        carried = config.redundancy + (1 - config.redundancy) / config.modalities
        return {
            m: carried * carried_accuracy(s / config.noise.get(m, 1.0), config.classes)
            + (1 - carried) / config.classes
            for m, s in self.strengths().items()
        }

    def best_accuracy(self) -> float | None:
        """Return A of all modalities together; None where some samples are not shared."""
        if self.config.redundancy < 1:
            return None
        ratios = [s / self.config.noise.get(m, 1.0) for m, s in self.strengths().items()]
        return carried_accuracy(math.hypot(*ratios), self.config.classes)

    def build(self, root: Path | None, scratch: Path) -> Mapping[str, SplitArrays]:
        """Draw the three splits, each from a stream of its own."""
        notes = {
            "source": f"drawn from seed {self.config.draw}",
            "bayes_accuracy": self.bayes_accuracy(),
            "strengths": self.strengths(),
        }
        (scratch / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        return {split: self._split(split, index) for index, split in enumerate(SPLITS)}

    def _split(self, split: str, index: int) -> SplitArrays:
        config = self.config
        rng = np.random.default_rng([config.draw, index])
        count = getattr(config, split)
        truth = rng.permutation(np.arange(count) % config.classes)
        carriers = self._carriers(rng, count)
        inputs = {m: self._inputs(rng, m, truth, carriers[:, i]) for i, m in enumerate(self.names)}
        label = truth
        if split != "test":
            other = rng.integers(1, config.classes, count)
            wrong = rng.random(count) < config.label_noise
            label = np.where(wrong, (truth + other) % config.classes, truth)
        names = tuple(f"{split}-{i:06d}" for i in range(count))
        return SplitArrays(inputs, label.astype(np.int64), names, names)

    def _carriers(self, rng: np.random.Generator, count: int) -> NDArray[np.bool_]:
        """Return which modalities carry the class of each sample, [N, M]."""
        shared = rng.random(count) < self.config.redundancy
        chosen = rng.integers(self.config.modalities, size=count)
        own = chosen[:, None] == np.arange(self.config.modalities)
        return np.asarray(shared[:, None] | own, dtype=np.bool_)

    def _inputs(
        self, rng: np.random.Generator, m: str, truth: NDArray[np.int64], carried: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        config = self.config
        noise = config.noise.get(m, 1.0) * rng.standard_normal((len(truth), config.features))
        signal = np.zeros_like(noise)
        signal[np.arange(len(truth)), truth] = self.strengths()[m] * carried
        turned = (signal + noise) @ self._rotation(m).T
        return (config.speed.get(m, 1.0) * turned).astype(np.float32)

    def _rotation(self, m: str) -> Array:
        """Return R_m, the same in all splits."""
        rng = np.random.default_rng([self.config.draw, 97, self.names.index(m)])
        q, r = np.linalg.qr(rng.standard_normal((self.config.features,) * 2))
        return np.asarray(q * np.sign(np.diag(r)))
