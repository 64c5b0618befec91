"""The checks: each trains a method on a toy task and says what to mend where it breaks."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench import data, training
from mmbench.contract.options import choices, options
from mmbench.contract.promise import NOT_FINITE, Broken, require
from mmbench.contract.snapshot import attributes, differing, state
from mmbench.contract.toy import CLASSES, everything, predict, toy_trainer
from mmbench.contract.waiting import DEVICE, Waits, call_without_waiting, count_waits
from mmbench.errors import StopRequested
from mmbench.method import Batch, Method
from mmbench.training.trainer import Trainer

ALONE = 1e-10  # tolerance of a prediction, in double precision
SHOWN = 3  # names of tensors in a message
HOOKS = ("on_fit_start", "on_epoch_start", "on_epoch_end")
ENGINE = (Path(training.__file__).parent, Path(data.__file__).parent)


def constructs(cls: type[Method], count: int, folder: Path) -> None:
    """Built from its defaults, a method predicts logits [B, C], the fused ones among them."""
    trainer = toy_trainer(cls, count, folder)
    batch = everything(trainer)
    found = predict(trainer.method, batch)
    require(
        isinstance(found, Mapping) and "fused" in found,
        "predict must return a dict of logits with 'fused' among them",
    )
    wanted = (len(batch.label), CLASSES)
    wrong = [f"{k!r} of shape {list(o.shape)}" for k, o in found.items() if o.shape != wanted]
    require(not wrong, f"predict must return logits {list(wanted)} here, not {', '.join(wrong)}")


def steps(cls: type[Method], count: int, folder: Path) -> None:
    """One step changes parameters and returns scalar tensors, its loss among them."""
    trainer = toy_trainer(cls, count, folder, stop=lambda: True)
    method = trainer.method
    for name in method.compiles:
        require(
            callable(getattr(method, name, None)), f"compiles names {name!r}, which is no method"
        )
    before, take = state(method), method.step

    def step(batch: Batch) -> dict[str, Tensor]:
        out = take(batch)
        require(
            isinstance(out, Mapping) and "loss" in out,
            "step must return a dict of scalar tensors with 'loss' among them",
        )
        require(
            all(isinstance(v, Tensor) and v.ndim == 0 for v in out.values()),
            "step must return scalar tensors, not numbers: they are read once per epoch",
        )
        require(
            bool(torch.isfinite(out["loss"])),
            f"the first step returned the loss {float(out['loss'].detach())}; {NOT_FINITE}",
        )
        require(
            any(not torch.equal(before[n], p) for n, p in method.named_parameters()),
            "a step changed no parameter: call self.fit.backward(loss) and self.fit.update()",
        )
        return out

    setattr(method, "step", step)  # noqa: B010  # only here, to watch it
    with suppress(StopRequested):
        trainer.train()


def learns(cls: type[Method], count: int, folder: Path) -> None:
    """The fused loss falls over a short training, in which every encoder learns."""
    # decay would move an encoder that no gradient reaches
    trainer = toy_trainer(cls, count, folder, weight_decay=0.0)
    batch, before = everything(trainer), state(trainer.method)

    def loss() -> float:
        return float(cross_entropy(predict(trainer.method, batch)["fused"], batch.label))

    started = loss()
    trainer.train()
    ended = loss()
    still = _untrained(trainer.method, before)
    require(
        not still,
        f"training changed no parameter of the encoders of {', '.join(still)}: let the loss and "
        "self.fit.update() reach the encoder of every modality in self.names; leave a modality out "
        "by modalities(task, config), freeze an encoder by requires_grad_(False)",
    )
    require(
        ended < started,
        f"the fused loss did not fall on the toy task ({started:.3f} to {ended:.3f}); look at "
        "the sign of the loss and at which parameters are updated",
    )


def _untrained(method: Method, before: Mapping[str, Tensor]) -> list[str]:
    """Return the modalities whose encoders have parameters to train, all as they were before."""
    found = []
    for m, encoder in method.encoders.items():
        named = [(f"encoders.{m}.{n}", p) for n, p in encoder.named_parameters() if p.requires_grad]
        if named and all(torch.equal(before[name], p) for name, p in named):
            found.append(m)
    return found


def repeats(cls: type[Method], count: int, folder: Path) -> None:
    """The same seed gives the same result, to the last bit."""
    ends = []
    for attempt in range(2):
        torch.manual_seed(attempt)  # whatever happened before must not matter
        trainer = toy_trainer(cls, count, folder / str(attempt))
        trainer.train()
        ends.append(state(trainer.method))
    require(
        not differing(*ends),
        "two runs with one seed differ; draw random numbers from self.fit.generator(tag)",
    )


def predicts_alone(cls: type[Method], count: int, folder: Path) -> None:
    """The logits of a sample do not depend on the rest of the batch."""
    trainer = toy_trainer(cls, count, folder)
    trainer.train()
    batch = everything(trainer)
    whole = predict(trainer.method, batch)
    for rows in (slice(3, 4), slice(5, 22)):
        part = Batch(
            {m: x[rows] for m, x in batch.inputs.items()}, batch.label[rows], batch.index[rows]
        )
        for name, logits in predict(trainer.method, part).items():
            require(
                torch.allclose(logits, whole[name][rows], atol=ALONE, rtol=0),
                f"predict gives other logits {name!r} when the batch is another; use no batch "
                "statistics there",
            )


def resumes(cls: type[Method], count: int, folder: Path) -> None:
    """Stopped in the middle of an epoch and continued, a run ends as if it had not been.

    What is compared at the end are the tensors and the plain Python attributes. Where tensors
    differ, the attributes that were lost at the stop are the likely cause.
    """
    straight = toy_trainer(cls, count, folder / "straight")
    straight.train()
    halfway = straight.step // 2 + 1
    first = toy_trainer(cls, count, folder / "halves", stop=lambda: first.step >= halfway)
    with suppress(StopRequested):
        first.train()
    stopped = attributes(first.method)
    restored: dict[str, dict[str, Any]] = {}  # Any: plain values
    second = toy_trainer(cls, count, folder / "halves")
    load = second.load

    def loaded(saved: Mapping[str, Any]) -> None:
        load(saved)
        restored.setdefault("first", attributes(second.method))

    setattr(second, "load", loaded)  # noqa: B010  # only here, to look right after it
    second.train()
    tensors = differing(state(straight.method), state(second.method))
    plain = differing(attributes(straight.method), attributes(second.method))
    lost = plain or (differing(stopped, restored["first"]) if tensors else [])
    require(not tensors and not plain, _resume_by(tensors, lost))


def _resume_by(tensors: Sequence[str], lost: Sequence[str]) -> str:
    """Say what a continued run has lost and how to keep it, then which tensors it ends with."""
    more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
    ends = f"; a continued run ends with other {', '.join(tensors[:SHOWN])}{more}"
    if lost:
        names = " and ".join(f"self.{name}" for name in lost)
        cause = (
            f"{names} {'is' if len(lost) == 1 else 'are'} not what the run that never stopped has; "
            "keep a tensor with self.register_buffer(name, tensor), a plain value by returning it "
            "from get_extra_state and setting it in set_extra_state"
        )
    else:
        cause = (
            "something is lost at a stop; keep what you remember between steps in buffers "
            "(register_buffer) or in get_extra_state and set_extra_state"
        )
    return cause + (ends if tensors else "")


def does_not_wait(cls: type[Method], count: int, folder: Path) -> None:
    """Nothing in a step waits for the device, and a hook less often than an epoch has batches."""
    trainer = toy_trainer(cls, count, folder)
    trainer.device = DEVICE
    for loader in trainer.loaders.values():
        loader.device = DEVICE
    take = trainer.method.step

    def step(batch: Batch) -> dict[str, Tensor]:
        try:
            out: dict[str, Tensor] = call_without_waiting(take, batch)
        except Waits as err:
            raise Broken(
                f"step waits for the device at {err}; keep it a tensor, use torch.where"
            ) from err
        return out

    # Set on the object: only here, to watch it.
    setattr(trainer.method, "step", step)  # noqa: B010
    for name in HOOKS:
        setattr(trainer.method, name, _counted(trainer, name))
    trainer.train()


def _counted(trainer: Trainer, name: str) -> Callable[..., None]:
    """Return the hook ``name``, refusing to wait for the device once a batch or more often."""
    hook = getattr(trainer.method, name)

    def counted(*args: object) -> None:
        _, waits = count_waits(hook, *args, but_in=ENGINE)
        batches = trainer.steps_per_epoch
        if len(waits) >= batches:
            raise Broken(
                f"{name} waits for the device {len(waits)} times in an epoch of {batches} batches, "
                f"first at {waits[0]}; stack the values and read them once"
            )

    return counted


def survives_bf16(cls: type[Method], count: int, folder: Path) -> None:
    """Trained under bf16 autocast, everything stays finite."""
    trainer = toy_trainer(cls, count, folder, precision="bf16")
    trainer.train()
    bad = [n for n, t in state(trainer.method).items() if not torch.isfinite(t.double()).all()]
    require(
        not bad,
        f"not finite after training in bf16: {', '.join(bad)}; compute weights and divergences in "
        "single precision",
    )


# A check may return what to say about a pass.
CHECKS: dict[str, Callable[[type[Method], int, Path], str | None]] = {
    "constructs": constructs,
    "options": options,
    "steps": steps,
    "learns": learns,
    "choices": choices,
    "repeats": repeats,
    "predicts alone": predicts_alone,
    "resumes": resumes,
    "does not wait": does_not_wait,
    "survives bf16": survives_bf16,
}
