"""The checks: each trains a method on a toy task and says what to mend where it breaks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbench.contract.toy import toy_trainer
from mmbench.contract.waiting import Waits, call_without_waiting
from mmbench.errors import StopRequested
from mmbench.method import Batch, Method
from mmbench.training.trainer import Trainer

ALONE = 1e-10  # tolerance of a prediction, in double precision


class Broken(Exception):
    """The method breaks its contract; the text says what to mend."""


def require(condition: bool, mend: str) -> None:
    """Raise ``Broken`` unless ``condition``."""
    if not condition:
        raise Broken(mend)


def everything(trainer: Trainer) -> Batch:
    """Return the whole training split as one batch."""
    return trainer.loaders["train"].gather(torch.arange(len(trainer.loaders["train"])))


@torch.no_grad()
def predict(method: Method, batch: Batch) -> dict[str, Tensor]:
    """Return the logits in eval mode."""
    method.eval()
    out = method.predict(batch.inputs)
    method.train()
    return out


def state(method: Method) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    tensors = [*method.named_parameters(), *method.named_buffers()]
    return {name: t.detach().clone() for name, t in tensors}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Say whether two states are equal to the last bit; NaN equals NaN."""
    return left.keys() == right.keys() and all(
        torch.allclose(left[k], right[k], atol=0, rtol=0, equal_nan=True) for k in left
    )


def options(cls: type[Method], count: int, folder: Path) -> None:
    """Every option has a meaning, a source, and a range where it is a number."""
    cls.Config()
    schema = cls.Config.model_json_schema()
    for key, field in cls.Config.model_fields.items():
        extra = field.json_schema_extra
        require(bool(field.description), f"say what {key} means: setting(default, 'meaning', ...)")
        require(
            isinstance(extra, dict) and bool(extra.get("source")),
            f"say where the default of {key} comes from: setting(..., source='paper, section')",
        )
        for node in _numbers(schema["properties"][key]):
            bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
            require(bool(bounds & node.keys()), f"give {key} a range: setting(..., ge=0)")


def _numbers(node: Any) -> Iterator[dict[str, Any]]:  # Any: a JSON schema has no static type
    if isinstance(node, list):
        for part in node:
            yield from _numbers(part)
    elif isinstance(node, dict):
        if node.get("type") in ("number", "integer") and not {"const", "enum"} & node.keys():
            yield node
        for key in ("anyOf", "items", "prefixItems", "additionalProperties"):
            yield from _numbers(node.get(key))


def learns(cls: type[Method], count: int, folder: Path) -> None:
    """A step changes parameters and logs its loss; the fused loss falls over a short training."""
    trainer = toy_trainer(cls, count, folder)
    method, batch = trainer.method, everything(trainer)
    first = predict(method, batch)
    require("fused" in first, "predict must return the logits 'fused'")
    before, started = state(method), float(cross_entropy(first["fused"], batch.label))
    logged: list[Mapping[str, Tensor]] = []
    take = method.step

    def step(drawn: Batch) -> dict[str, Tensor]:
        out = take(drawn)
        if not logged:
            require(
                any(not torch.equal(before[n], p) for n, p in method.named_parameters()),
                "a step changed no parameter: call self.fit.backward(loss) and self.fit.update()",
            )
            require(
                all(isinstance(v, Tensor) and v.ndim == 0 for v in out.values()),
                "step must return scalar tensors, not numbers: they are read once per epoch",
            )
        logged.append(out)
        return out

    setattr(method, "step", step)  # noqa: B010  # only here, to watch it
    trainer.train()
    ended = float(cross_entropy(predict(method, batch)["fused"], batch.label))
    require(
        ended < started,
        f"the fused loss did not fall on the toy task ({started:.3f} to {ended:.3f}); look at "
        "the sign of the loss and at which parameters are updated",
    )


def repeats(cls: type[Method], count: int, folder: Path) -> None:
    """The same seed gives the same result, to the last bit."""
    ends = []
    for attempt in range(2):
        torch.manual_seed(attempt)  # whatever happened before must not matter
        trainer = toy_trainer(cls, count, folder / str(attempt))
        trainer.train()
        ends.append(state(trainer.method))
    require(
        same(*ends),
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
    """Stopped in the middle of an epoch and continued, a run ends as if it had not been."""
    straight = toy_trainer(cls, count, folder / "straight")
    straight.train()
    halfway = straight.step // 2 + 1
    first = toy_trainer(cls, count, folder / "halves", stop=lambda: first.step >= halfway)
    with suppress(StopRequested):
        first.train()
    second = toy_trainer(cls, count, folder / "halves")
    second.train()
    require(
        same(state(straight.method), state(second.method)),
        "a continued run ends elsewhere; keep what you remember between steps in buffers "
        "(register_buffer) or in get_extra_state and set_extra_state",
    )


def does_not_wait(cls: type[Method], count: int, folder: Path) -> None:
    """Nothing in a step waits for the device."""
    trainer = toy_trainer(cls, count, folder)
    take = trainer.method.step

    def step(batch: Batch) -> dict[str, Tensor]:
        try:
            out: dict[str, Tensor] = call_without_waiting(take, batch)
        except Waits as err:
            raise Broken(
                f"step waits for the device: {err}; keep it a tensor, use torch.where"
            ) from err
        return out

    setattr(trainer.method, "step", step)  # noqa: B010  # only here, to watch it
    trainer.train()


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


CHECKS: dict[str, Callable[[type[Method], int, Path], None]] = {
    "options": options,
    "learns": learns,
    "repeats": repeats,
    "predicts alone": predicts_alone,
    "resumes": resumes,
    "does not wait": does_not_wait,
    "survives bf16": survives_bf16,
}
