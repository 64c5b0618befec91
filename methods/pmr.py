"""PMR: class prototypes tell which modality learns slowly, and give it an extra loss.

The distances of a feature to the class means of its modality make a classifier without parameters.
The modality that this classifier trusts less gets a prototypical cross-entropy, so that its
encoder is no longer stalled by the stronger modality.

Reference: Fan, Xu, Wang, Wang, Guo, "PMR: Prototypical Modal Rebalance for Multimodal Learning",
CVPR 2023 (arXiv 2211.07089).

With c_{m,k} the prototype of class k (mean feature, constant) and z_m the features:

    sim_m  = -|z_m - c_{m,k}|_2                          [B, C]
    q_m    = sum_i softmax(sim_m)_{i, y_i},   rho_m = q_m / mean_{j != m} q_j
    beta_m = alpha if rho_m < 1 else 0                   (gate "hard", the released code)
    beta_m = alpha min(max(1 / rho_m - 1, 0), 1)         (gate "clip", as we read the paper)
    L      = CE(o, y) + sum_m beta_m CE(sim_m, y)        in the window, else CE(o, y)

Prototypes are made before training and after each epoch, in eval mode, from some training samples;
after epoch 0 they move as c <- (1 - momentum) c_new + momentum c_old. With ``per_mu`` > 0 the
prototype distribution of every leading modality is kept uncertain: L -= per_mu H(softmax(sim_m)).

Deviations from the released code, each an option: ``guard`` (a class without samples divides by
zero there, and a sample that is its own prototype has a NaN gradient; here the old prototype is
kept or the class left out, and distances have a floor), ``proto_per_class`` (a tenth of a small
set leaves classes with hardly a sample), ``window_unit`` and ``ends`` (a share of the run instead
of epochs). Its validation and test sets, which two of its scripts use, are never touched,
and samples are not augmented for prototypes, as there they are.
More than two modalities: the mean of the others is our extension.

Defaults: the authors' launch line for AVE with concat and SGD: alpha 2.0, momentum 0.0, window
0..70, there of 130 epochs; 0.7 here because the learning rate drops at the same epoch. Their lines
for CREMA-D with concat have the same values, but other optimisers; the one with sum has alpha 5.0,
a rate of 5e-4 and the window 0..100.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from mmbench.method import Batch, Deviation, Needs, log_entries, of_trainer, setting
from mmbench.nets.modes import evaluating
from mmbench.registry import register_method

from .arithmetic import EPS, against_others, at_least_fp32, true_class
from .modulated import Modulated, ModulatedConfig

FAR = -1e30  # similarity to a class without prototype: its softmax is 0, and no NaN arises
LAUNCH = "authors' launch line, AVE concat"


class PMRConfig(ModulatedConfig):
    """Options of PMR."""

    alpha: float = setting(2.0, "weight of the prototypical loss", source=LAUNCH, ge=0)
    momentum: float = setting(
        0.0, "share of the old prototype that is kept (momentum_coef)", source=LAUNCH, ge=0, lt=1
    )
    ends: float = setting(
        0.7, "last epoch of the window, inclusive", source="methods.md section 5", ge=0
    )
    gate: Literal["hard", "clip"] = setting(
        "hard", "all or nothing, or in proportion to the lag", source="authors' script"
    )
    proto_fraction: float = setting(
        0.1, "share of the training batches for prototypes", source="authors' script", gt=0, le=1
    )
    proto_per_class: int = setting(
        20,
        "take at least this many samples of every class, as far as there are any",
        source="mmbench",
        ge=0,
    )
    guard: bool = setting(True, "survive empty classes and zero distances", source="mmbench")
    per_mu: float = setting(0.0, "weight of the entropy bonus; 0: off", source="mmbench", ge=0)
    per_ends: float = setting(
        0.1, "last epoch of the entropy bonus, in window_unit", source="mmbench", ge=0
    )


def similarity(z: Tensor, prototypes: Tensor, floor: float = EPS) -> Tensor:
    """Return -|z_i - c_k|_2, [B, C].

    Args:
        z: features [B, d].
        prototypes: [C, d].
        floor: least squared distance, since the root has no gradient at 0; 0: none.
    """
    squared = (z[:, None] - prototypes).square().sum(2)
    return -(squared.clamp_min(floor) if floor else squared).sqrt()


def gates(q: Mapping[str, Tensor], alpha: float, gate: str = "hard") -> dict[str, Tensor]:
    """Return beta_m, the weight of each modality's prototypical loss.

    Args:
        q: summed true-class probability per modality.
        alpha: largest weight.
        gate: ``hard`` or ``clip``.
    """
    rho = against_others(q)
    if gate == "hard":
        return {m: alpha * (r < 1).to(r.dtype) for m, r in rho.items()}
    return {m: alpha * (1 / r.clamp_min(EPS) - 1).clamp(0, 1) for m, r in rho.items()}


def prototypical_loss(sim: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """Return the mean cross-entropy over the samples whose class has a prototype.

    Args:
        sim: [B, C], hugely negative where a class has none.
        label: [B].
        known: [C] bool.
    """
    keep = known[label]
    each = cross_entropy(sim, label, reduction="none")
    kept = torch.where(keep, each, torch.zeros_like(each))
    return kept.sum() / keep.sum().clamp_min(1)


def entropy(sim: Tensor, known: Tensor) -> Tensor:
    """Return the mean entropy of softmax(sim) over the known classes, in nats."""
    log_p = sim.log_softmax(1)
    return -(log_p.exp() * log_p.masked_fill(~known, 0.0)).sum(1).mean()


@register_method("pmr")
class PMR(Modulated):
    """Give the modality that learns slowly a loss of its own, from class prototypes."""

    Config = PMRConfig
    config: PMRConfig
    needs = Needs(min_modalities=2, defined_for=2)
    reference = "Fan et al., CVPR 2023"
    authors = of_trainer(lr=0.001, epochs=130, batch_size=64, schedule="step", lr_step=70 / 130) | {
        "ends": 70 / 130,
        "alpha": 2.0,
        "momentum": 0.0,
    }
    deviations = (
        Deviation("guard", True, False, "Empty classes and zero distances give NaN there."),
        Deviation("proto_per_class", 20, 0, "A tenth of a small set leaves classes empty."),
        Deviation("window_unit", "fraction", "epochs", "A shorter run is modulated alike."),
        Deviation("ends", 0.7, 70, "The window ends where the learning rate drops."),
        Deviation(
            None,
            "prototypes are made of training samples alone",
            "the AVE script takes the validation set, the CG-MNIST script the test set",
            "What training looks at must not be what is reported.",
        ),
        Deviation(
            None,
            "prototypes are made of samples without augmentation",
            "they are made of the augmented training samples",
            "A class mean is to describe the class, not the draw of crops.",
        ),
    )
    version = 2  # proto_per_class holds for every class
    prototypes: Tensor
    counts: Tensor
    known: Tensor

    @classmethod
    def recipe(cls, given: Mapping[str, object], dataset: str = "") -> dict[str, object]:
        """Return the launch line of the fusion in use: the sum has its own values."""
        summed = {"alpha": 5.0, "trainer.lr": 5e-4, "ends": 100 / 130}
        own = summed if given.get("fusion") == "sum" else {}
        return {**super().recipe(given, dataset), **own}

    def build(self) -> None:
        """Create the fusion head, and room for the prototypes [M, C, d]."""
        super().build()
        shape = (len(self.names), self.classes, self.width)
        self.register_buffer("prototypes", torch.zeros(shape))
        self.register_buffer("counts", torch.zeros(self.classes))
        self.register_buffer("known", torch.zeros(self.classes, dtype=torch.bool))

    def on_fit_start(self) -> None:
        """Make prototypes of the untrained encoders."""
        self.make_prototypes()

    def on_epoch_end(self, val: Mapping[str, Mapping[str, float]] | None) -> None:
        """Make them anew; validation metrics are not looked at."""
        self.make_prototypes()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Minimise the fused cross-entropy plus the gated prototypical ones."""
        z = self.encode(batch.inputs)
        sim = self.similarities(z)
        known = self.known if self.config.guard else torch.ones_like(self.known)
        own = {m: prototypical_loss(s, batch.label, known) for m, s in sim.items()}
        with torch.no_grad():
            q = {m: true_class(s, batch.label) for m, s in sim.items()}
            hits = {m: (s.argmax(1) == batch.label).to(s.dtype).mean() for m, s in sim.items()}
            rho = against_others(q)
            beta = gates(q, self.config.alpha if self.active else 0.0, self.config.gate)
        loss = cross_entropy(self.fusion_head(z), batch.label)
        total = loss
        if self.active:
            total = total + torch.stack([beta[m] * own[m] for m in self.names]).sum()
        if self.config.per_mu and self._early:
            leading = [(rho[m] > 1).to(s.dtype) * entropy(s, known) for m, s in sim.items()]
            total = total - self.config.per_mu * torch.stack(leading).sum()
        self.fit.backward(total)
        self.fit.update()
        return {
            "loss": total,
            "loss/fused": loss,
            **log_entries(**{"loss/prototype": own}, ratio=rho, beta=beta, prototype_accuracy=hits),
        }

    def similarities(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return sim_m [B, C]; under ``guard`` hugely negative where a class has no prototype."""
        sim = {}
        for m, prototypes in zip(self.names, self.prototypes, strict=True):
            if self.config.guard:
                distances = similarity(at_least_fp32(z[m]), prototypes)
                sim[m] = distances.masked_fill(~self.known, FAR)
            else:
                sim[m] = similarity(at_least_fp32(z[m]), prototypes, floor=0.0)
        return sim

    @torch.no_grad()
    def make_prototypes(self) -> None:
        """Set the prototypes to the class means over some training samples, in eval mode."""
        sums = torch.zeros_like(self.prototypes)
        counts = torch.zeros_like(self.counts)
        share = self.config.proto_fraction
        some = max(1, math.floor(round(share * self.fit.steps_per_epoch, 9)))
        batches = math.inf if share == 1 else some
        enough = self.config.proto_per_class
        with evaluating(self):
            for number, batch in enumerate(self.fit.train_batches(tag="prototypes")):
                if number >= batches and (not enough or bool((counts >= enough).all())):
                    break
                z = self.encode(batch.inputs)
                features = torch.stack([z[m] for m in self.names]).to(sums.dtype)
                member = one_hot(batch.label, self.classes).to(sums.dtype)  # [B, C]
                with torch.autocast(sums.device.type, enabled=False):
                    sums += member.T @ features
                counts += member.sum(0)
        self._adopt(sums / counts[:, None], counts)

    def _adopt(self, means: Tensor, counts: Tensor) -> None:
        fresh = counts > 0
        if self.fit.epoch > 0:
            eps = self.config.momentum
            moved = (1 - eps) * means + eps * self.prototypes
            means = torch.where(self.known[:, None], moved, means) if self.config.guard else moved
        if self.config.guard:
            means = torch.where(fresh[:, None], means, self.prototypes)
        self.prototypes.copy_(means)
        self.counts.copy_(counts)
        self.known.logical_or_(fresh)

    @property
    def _early(self) -> bool:
        return self.config.spans(0.0, self.config.per_ends, self.fit.epoch, self.fit.epochs)
