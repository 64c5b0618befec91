"""MSLR: additive late fusion in which every modality has its own learning rate.

Reference: Yao, Mihalcea, "Modality-specific Learning Rates for Effective Multimodal Additive
Late-fusion", Findings of ACL 2022, pp. 1824-1834. Its strategies are known as keep, smooth and
dynamic; only the abstract could be read, so the formulas are those of the re-implementation in
the AGM repository, and smooth is left out.

    L = CE(sum_m o_m, y),  lr_m(e) = lr(e) c_m r_m(e)

``keep``: r_m = 1. ``dynamic``: with the validation accuracies of modality m in the last K epochs
before this one in memory, r_m <- acc_m / mean(memory) at the end of an epoch, for the next.
``cumulative`` (another public re-implementation): every K epochs r_m <- r_m acc_m / mean(last K).
Ratios stay within [0.1, 10], and are 1 where the mean is 0.

Deviations from that code, each an option: it scales gradients and not the learning rate, which
differs by weight decay and momentum (``apply``); it acts in epochs 0..20 (``ends``,
``window_unit``); its test function counts the second modality's hits for the first, so that r is
the same for both (``accuracy=official``); it adapts to the accuracy on the test split. Here it is
the validation split, and without one a share of the training data is set aside (``held_out``).
``pretrain_epochs`` starts from unimodal models, as the paper does; they count in the budget.

Defaults: K = 5 (the re-implementation). Its c are 0.9 and 1.1 for audio and visual on CREMA-D,
0.9, 1.4 and 0.7 for audio, visual and text on UR-Funny, 1.3 and 0.7 for audio and visual on
AV-MNIST; they were found on those sets, so here c is 1 unless given. The preset ``authors`` takes
those of CREMA-D on ``cremad``, and 1 elsewhere.

With c = 1 the method is close to ``sum``: r_m moves away from 1 only while the accuracy still
climbs, so in most epochs every modality has nearly the common learning rate. Its row then says
little about what c chosen for the dataset would give.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.dataset import Task
from mmbench.method import (
    UNKNOWN,
    Batch,
    Deviation,
    ParameterGroup,
    log_entries,
    of_trainer,
    setting,
)
from mmbench.nets.modes import evaluating
from mmbench.registry import register_method

from .gradients import scale_gradients
from .modulated import WindowConfig
from .sum import Sum

SCRIPT = "AGM repository's MSLR"
LIMITS = (0.1, 10.0)
# c of the scripts, by dataset; those of UR-Funny and AV-MNIST have no dataset here
SCRIPTS = {"cremad": {"audio": 0.9, "video": 1.1}}


class MSLRConfig(WindowConfig):
    """Options of MSLR."""

    strategy: Literal["keep", "dynamic", "cumulative"] = setting(
        "dynamic", "how the ratio follows the accuracy", source=SCRIPT
    )
    c: dict[str, Annotated[float, Field(gt=0)]] = setting(
        {}, "factor on each modality's learning rate; 1 unless given", source="mmbench"
    )
    memory: int = setting(5, "epochs that the accuracy is compared with (K)", source=SCRIPT, ge=1)
    apply: Literal["lr", "grad"] = setting("lr", "what is scaled", source="paper")
    accuracy: Literal["own", "official"] = setting(
        "own", "each modality's accuracy, or the second's for the first too", source="paper"
    )
    held_out: float = setting(
        0.1, "share of train to adapt on where there is no validation split", source="mmbench",
        gt=0, lt=1,
    )  # fmt: skip
    pretrain_epochs: int = setting(
        0, "epochs in which every modality first learns alone (init_from_unimodal)",
        source="paper", ge=0,
    )  # fmt: skip


def change(accuracy: float, memory: list[float]) -> float:
    """Return acc / mean(memory) within [0.1, 10]; 1 if the mean is 0 or the memory empty."""
    mean = sum(memory) / len(memory) if memory else 0.0
    return 1.0 if mean == 0 else min(max(accuracy / mean, LIMITS[0]), LIMITS[1])


@register_method("mslr")
class MSLR(Sum):
    """Additive late fusion in which every modality has its own learning rate."""

    Config = MSLRConfig
    config: MSLRConfig
    reference = "Yao, Mihalcea, Findings of ACL 2022"
    authors = of_trainer(lr=UNKNOWN, epochs=UNKNOWN, batch_size=UNKNOWN, schedule="step") | {
        "window_unit": "epochs",
        "ends": 20,
    }
    deviations = (
        Deviation("apply", "lr", "grad", "Scaled gradients leave weight decay as it is."),
        Deviation("accuracy", "own", "official", "Released: a counter of the wrong modality."),
        Deviation("window_unit", "fraction", "epochs", "A shorter run is treated alike."),
        Deviation("ends", 1.0, 20, "The ratio stays meaningful for the whole run."),
        Deviation(
            None,
            "adapts to the validation split, or to training data set aside",
            "adapts to the accuracy on the test split (CREMA-D)",
            "What training looks at must not be what is reported.",
        ),
        Deviation(
            None,
            "c is 1 for every modality unless given",
            "each script has its own c: 0.9 and 1.1 for audio and visual on CREMA-D",
            "Found on one set, it says little of another; --preset authors has it on cremad.",
        ),
    )

    @classmethod
    def recipe(cls, given: Mapping[str, object], dataset: str = "") -> dict[str, object]:
        """Return the recipe with the c of the dataset's script, if there is one."""
        own = {"c": dict(SCRIPTS[dataset])} if dataset in SCRIPTS else {}
        return {**super().recipe(given, dataset), **own}

    @classmethod
    def refuse(cls, task: Task, config: Any) -> str | None:  # Any: as in Method
        """Refuse factors for modalities that are not there."""
        unknown = sorted(set(config.c) - set(task.names))
        if unknown:
            return (
                f"{cls.name}.c names {', '.join(unknown)}; the modalities are "
                f"{', '.join(task.names)}"
            )
        return super().refuse(task, config)

    def build(self) -> None:
        """Create own heads; the memory is plain numbers."""
        super().build()
        self.memory: dict[str, list[float]] = {m: [] for m in self.names}
        self.ratio = dict.fromkeys(self.names, 1.0)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the memory and the ratios."""
        memory = {m: list(values) for m, values in self.memory.items()}
        return {"memory": memory, "ratio": dict(self.ratio)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_extra_state`` returned."""
        self.memory, self.ratio = state["memory"], state["ratio"]

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group per modality: its encoder and its head."""
        return [
            ParameterGroup(m, [*self.encoders[m].parameters(), *self.heads[m].parameters()])
            for m in self.names
        ]

    @property
    def alone(self) -> bool:
        """Whether the modalities still learn alone."""
        return self.fit.epoch < self.config.pretrain_epochs

    def on_fit_start(self) -> None:
        """Set data aside where there is no validation split to adapt to."""
        if self.config.strategy != "keep" and not self.fit.validates:
            self.fit.hold_out(self.config.held_out)

    def on_epoch_start(self) -> None:
        """Give every modality its learning rate of this epoch."""
        if self.fit.epoch == self.config.pretrain_epochs > 0:
            self.fit.new_optimizer("main", self.parameter_groups())
        if self.config.apply == "lr":
            for m, factor in self.factors().items():
                self.fit.scale_lr(m, factor)

    def factors(self) -> dict[str, float]:
        """Return c_m r_m of this epoch; 1 outside the window and while learning alone."""
        if self.alone or not self.config.acts(self.fit.epoch, self.fit.epochs):
            return dict.fromkeys(self.names, 1.0)
        return {m: self.config.c.get(m, 1.0) * self.ratio[m] for m in self.names}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step on the loss of the summed logits."""
        logits = self.predict(batch.inputs)
        losses = {m: cross_entropy(o, batch.label) for m, o in logits.items()}
        alone = torch.stack([losses[m] for m in self.names]).sum()
        total = alone if self.alone else losses["fused"]
        self.fit.backward(total)
        factors = {m: total.new_full((), factor) for m, factor in self.factors().items()}
        if self.config.apply == "grad":
            for group in self.parameter_groups():
                scale_gradients(group.parameters, factors[group.name])
        self.fit.update()
        own = {m: loss.detach() for m, loss in losses.items()}
        return {"loss": total, **log_entries(loss=own, factor=factors)}

    def on_epoch_end(self, val: Mapping[str, Mapping[str, float]] | None) -> None:
        """Remember the accuracies, and set the ratios of the next epoch."""
        if self.config.strategy == "keep" or self.alone:
            return
        metric = "accuracy" if "accuracy" in self.task.metrics else self.task.primary
        reached = self._held_out_accuracy() if val is None else {
            m: val[m][metric] for m in self.names
        }  # fmt: skip
        if self.config.accuracy == "official" and len(self.names) > 1:
            reached[self.names[0]] = reached[self.names[1]]
        for m in self.names:
            self._adapt(m, reached[m])

    def _adapt(self, m: str, accuracy: float) -> None:
        memory, size = self.memory[m], self.config.memory
        if self.config.strategy == "dynamic":
            if len(memory) == size:
                self.ratio[m] = change(accuracy, memory)
            self.memory[m] = [*memory, accuracy][-size:]
            return
        self.memory[m] = [*memory, accuracy]
        if len(self.memory[m]) == size:  # K epochs since the last change, this one included
            ratio = self.ratio[m] * change(accuracy, self.memory[m])
            self.ratio[m] = min(max(ratio, LIMITS[0]), LIMITS[1])
            self.memory[m] = []

    @torch.no_grad()
    def _held_out_accuracy(self) -> dict[str, float]:
        """Return each modality's accuracy on the data set aside; waits for the device."""
        hits: dict[str, list[Tensor]] = {m: [] for m in self.names}
        with evaluating(self):
            for batch in self.fit.held_out_batches():
                logits = self.predict(batch.inputs)
                for m in self.names:
                    hits[m].append(logits[m].argmax(1) == batch.label)
        return {m: float(torch.cat(found).double().mean()) for m, found in hits.items()}
