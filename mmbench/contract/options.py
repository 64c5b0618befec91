"""The checks of a method's options: that each is declared, and that each choice trains."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from mmbench.contract.promise import require, told
from mmbench.contract.snapshot import state
from mmbench.contract.toy import everything, predict, toy_task, toy_trainer
from mmbench.errors import UserError
from mmbench.method import UNKNOWN, Method
from mmbench.settings import Settings, TrainerSettings, validate

EPOCHS = 2  # of the short trainings; enough for every hook to run twice


def options(cls: type[Method], count: int, folder: Path) -> None:
    """Every option has a meaning, a source, and a range where it is a number.

    What ``deviations`` and ``authors`` set are options, and settings of the trainer.
    """
    cls.Config()
    schema, mend = cls.Config.model_json_schema(), []
    for key, field in cls.Config.model_fields.items():
        extra = field.json_schema_extra
        if not field.description:
            mend.append(f"say what {key} means: setting(default, 'meaning', ...)")
        if not (isinstance(extra, dict) and extra.get("source")):
            mend.append(
                f"say where the default of {key} comes from: setting(..., source='paper, section')"
            )
        bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
        if not all(bounds & node.keys() for node in _numbers(schema["properties"][key])):
            mend.append(f"give {key} a range: setting(..., ge=0)")
    mend += _wrong_bundles(cls)
    require(not mend, "; ".join(mend))


def _wrong_bundles(cls: type[Method]) -> list[str]:
    """Return what ``deviations`` and ``authors`` set that is no option, or not to such a value."""
    own = {k: v for k, v in cls.authors.items() if not k.startswith("trainer.")}
    others = {k.removeprefix("trainer."): v for k, v in cls.authors.items() if k not in own}
    bundles: tuple[tuple[str, type[Settings], str, Mapping[str, object]], ...] = (
        ("deviations", cls.Config, "method", cls.released()),
        ("authors", cls.Config, "method", own),
        ("authors", TrainerSettings, "trainer", others),
    )
    found = []
    for origin, model, prefix, bundle in bundles:
        usual = model().model_dump()
        values = {k: usual.get(k) if v == UNKNOWN else v for k, v in bundle.items()}
        try:
            validate(model, values, prefix)
        except UserError as err:
            found += [f"{origin}: {line}" for line in str(err).splitlines()]
    return found


def _numbers(node: Any) -> Iterator[dict[str, Any]]:  # Any: a JSON schema has no static type
    if isinstance(node, list):
        for part in node:
            yield from _numbers(part)
    elif isinstance(node, dict):
        if node.get("type") in ("number", "integer") and not {"const", "enum"} & node.keys():
            yield node
        for key in ("anyOf", "items", "prefixItems", "additionalProperties"):
            yield from _numbers(node.get(key))


def choices(cls: type[Method], count: int, folder: Path) -> str:
    """Every choice of every option trains without an error, and everything stays finite.

    One option differs from its default at a time; then all that ``--fidelity released`` and
    ``--preset authors`` change. What the class refuses to be given alone is said, not failed.
    """
    task, trained, refused, mend = toy_task(count), 0, [], []
    for number, (name, given) in enumerate(variations(cls)):
        try:
            config = cls.Config(**given)
            refusal = cls.refuse(task, config)
            if refusal is None:
                _train(cls, count, folder / str(number), given)
                trained += 1
        except (ValidationError, UserError) as err:
            refusal = _reason(err)
        except Exception as err:
            mend.append(f"with {name}: {told(err)}")
            continue
        if refusal is not None:
            refused.append(f"{name} is refused: {refusal}")
    require(not mend, "; ".join(mend))
    return "; ".join([f"{trained} trained" if trained else "none to choose", *refused])


def variations(cls: type[Method]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield a name and the options for each choice that is not the default, then the bundles."""
    schema = cls.Config.model_json_schema()
    usual = cls.Config().model_dump(mode="json")
    for key in cls.Config.model_fields:
        for value in _choices(schema, schema["properties"][key]):
            if (type(value), value) != (type(usual[key]), usual[key]):
                yield f"{key}={value}", {key: value}
    authors = {k: v for k, v in cls.authors.items() if not k.startswith("trainer.")}
    for name, bundle in (("fidelity released", cls.released()), ("preset authors", authors)):
        if len(bundle) > 1:  # else it is one of the above
            yield name, dict(bundle)


def _choices(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what a choice, a switch or an option that may be none can be (Any: JSON values)."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    yield from node.get("enum", [])
    if "const" in node:
        yield node["const"]
    if node.get("type") in ("boolean", "null"):
        yield from {"boolean": (False, True), "null": (None,)}[node["type"]]
    for part in node.get("anyOf", []):
        yield from _choices(schema, part)


def _train(cls: type[Method], count: int, folder: Path, given: Mapping[str, object]) -> None:
    trainer = toy_trainer(cls, count, folder, options=given, epochs=EPOCHS)
    trainer.train()
    logits = {f"logits {k!r}": v for k, v in predict(trainer.method, everything(trainer)).items()}
    values = {**state(trainer.method), **logits}
    bad = [name for name, t in values.items() if not torch.isfinite(t.double()).all()]
    require(not bad, f"not finite after {EPOCHS} epochs: {', '.join(bad)}")


def _reason(err: ValidationError | UserError) -> str:
    """Return one line of why a choice cannot be made alone."""
    if isinstance(err, UserError):
        return str(err)
    return "; ".join(e["msg"].removeprefix("Value error, ") for e in err.errors())
