"""Validated settings: the base model, the field helper, and errors a person can act on."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from mmbench.errors import UserError, nearest

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Frozen settings: unknown keys, NaN and out-of-range values are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_exactly(cls, value: Any, info: ValidationInfo) -> Any:  # Any: not validated yet
        """Undo two readings that nobody means: ``true`` as 1, and the choice ``none`` as null."""
        if value is not None and not isinstance(value, bool):
            return value  # nearly all are neither, and a report reads thousands of settings
        members = _members(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and {int, float} & set(members) and bool not in members:
            raise ValueError("a number is wanted, not true or false")
        if value is None and type(None) not in members and "none" in _choices(members):
            return "none"
        return value


def _members(annotation: Any) -> tuple[Any, ...]:  # Any: a type form, which has no static type
    """Return the alternatives of a union, or the one type."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _choices(members: Sequence[Any]) -> list[Any]:  # Any: as above
    return [c for member in members if get_origin(member) is Literal for c in get_args(member)]


def setting(default: Any, doc: str, *, source: str, **limits: Any) -> Any:
    """Declare one setting with its meaning, its allowed range and where its default comes from.

    Args:
        default: the default value.
        doc: one line that ``mmbench show`` prints.
        source: the paper's section, the authors' script, or ``"mmbench"`` for our own choice.
        limits: pydantic's bounds (``ge``, ``gt``, ``le``, ``lt``, ``min_length``).

    Returns:
        A pydantic field (typed Any, as ``pydantic.Field`` is).
    """
    return Field(default, description=doc, json_schema_extra={"source": source}, **limits)


def allowed(model: type[BaseModel], key: str) -> str:
    """Describe the values that ``model.key`` takes, in words."""
    schema = model.model_json_schema()
    return _words(schema, schema["properties"][key])


_KINDS = {
    "array": "list",
    "boolean": "true or false",
    "null": "none",
    "object": "table",
    "string": "text",
}
_BOUNDS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
    "minItems": "length >=",
    "maxItems": "length <=",
    "minLength": "length >=",
    "maxLength": "length <=",
    "pattern": "matching",
}


def _words(schema: Mapping[str, Any], branch: Mapping[str, Any]) -> str:
    if "anyOf" in branch:
        return " or ".join(_words(schema, each) for each in branch["anyOf"])
    if "$ref" in branch:
        branch = schema["$defs"][branch["$ref"].rsplit("/", 1)[1]]
    if "enum" in branch:
        return "one of " + ", ".join(map(_named, branch["enum"]))
    if "const" in branch:
        return _named(branch["const"])
    kind = branch.get("type", "anything")
    limits = [f"{sign} {branch[k]}" for k, sign in _BOUNDS.items() if k in branch]
    words = " ".join([_KINDS.get(kind, kind), " and ".join(limits)]).strip()
    items = branch.get("items")
    return f"{words} of {_words(schema, items)}" if isinstance(items, dict) and items else words


def validate(model: type[S], values: Mapping[str, Any], prefix: str) -> S:
    """Build ``model`` from ``values``; a mistake becomes a UserError that names key and value.

    Args:
        model: the settings class.
        values: the keys the user gave.
        prefix: what to put before a key in messages, e.g. ``"trainer"``; may be empty.

    Raises:
        UserError: for an unknown key or a value that is not allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as err:
        raise UserError(_explain(model, err, prefix)) from err


def _explain(model: type[BaseModel], err: ValidationError, prefix: str) -> str:
    """Return one line per offending key: what is wrong, what was found, what is allowed."""
    lines: dict[str, str] = {}
    for item in err.errors():
        top = str(item["loc"][0]) if item["loc"] else ""
        reason = item["msg"].removeprefix("Value error, ")
        if not top:
            lines[f"{prefix}: {reason}"] = f"'{prefix}': {reason}" if prefix else reason
        elif item["type"] == "extra_forbidden":
            lines[top] = _unknown(model, item["loc"], prefix)
        elif item["type"] == "missing":
            lines[top] = f"'{_key(prefix, _dotted(item['loc']))}' is missing; give it a value"
        else:
            # A union reports every alternative it tried; the first line is enough for one key.
            said = any(word in item["type"] for word in _SAID_BY_ALLOWED)
            lines.setdefault(
                top,
                f"'{_key(prefix, _dotted(item['loc']))}' cannot be {_found(item['input'])}"
                f"{'' if said else f' ({reason})'}; allowed: {allowed(model, top)}",
            )
    return "\n".join(lines.values())


# Pydantic's error types whose message only repeats what ``allowed`` says.
_SAID_BY_ALLOWED = ("_type", "_parsing", "than", "literal_error", "too_short", "too_long")


def _unknown(model: type[BaseModel], loc: Sequence[int | str], prefix: str) -> str:
    owner: Any = model  # Any: a field's annotation can be anything
    for part in loc[:-1]:
        fields = getattr(owner, "model_fields", {})
        owner = fields[part].annotation if part in fields else None
    known = list(getattr(owner, "model_fields", {}))
    return (
        f"unknown setting '{_key(prefix, *map(str, loc))}'{nearest(str(loc[-1]), known)} "
        f"(known: {', '.join(known) or 'none'})"
    )


def _key(prefix: str, *parts: str) -> str:
    return ".".join([prefix, *parts] if prefix else parts)


def _named(value: object) -> str:
    return value if isinstance(value, str) else as_typed(value)


def _found(value: object) -> str:
    return as_typed(value) if value is None or isinstance(value, bool) else repr(value)


def _dotted(loc: Sequence[int | str]) -> str:
    """Return the key, with the position in a list but without pydantic's names of union members."""
    return ".".join([str(loc[0]), *(str(part) for part in loc[1:] if isinstance(part, int))])


def parse_value(text: str) -> Any:
    """Read a command-line value as TOML (``0``, ``false``, ``[1, 2]``, ``"x"``), else as text.

    ``none`` and ``null`` give None, which TOML cannot say; an empty text stays an empty text. So
    does what TOML would read as a date or a time, which no setting takes.
    """
    if text.strip().lower() in {"none", "null"}:
        return None
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # not TOML, a number of absurd length, endless brackets
        return text
    value = table.pop("value")
    # More keys: the text held a line break, and only its first line would be read.
    return text if table or isinstance(value, date | time) else value


def as_typed(value: object) -> str:
    """Return what ``parse_value`` reads as ``value``, which JSON could hold."""
    if value is None:
        return "none"
    return value if isinstance(value, str) and parse_value(value) == value else _toml(value)


def _toml(value: object) -> str:
    """Return a value as TOML has it, on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


class TrainerSettings(Settings):
    """What the shared trainer does; part of a cell's identity.

    The defaults are the protocol shared by this line of work (methods.md section 0.5).
    """

    epochs: int = setting(100, "passes over the training data", source="IPRM script", ge=1)
    batch_size: int = setting(64, "samples per step", source="IPRM script", ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = setting(
        "sgd", "the optimiser", source="IPRM script"
    )
    lr: float = setting(0.01, "base learning rate", source="IPRM script", gt=0)
    momentum: float = setting(0.9, "SGD momentum", source="IPRM script", ge=0, lt=1)
    weight_decay: float = setting(1e-4, "weight decay", source="IPRM script", ge=0)
    schedule: Literal["step", "cosine", "constant"] = setting(
        "step", "shape of the learning rate over epochs", source="IPRM script"
    )
    lr_step: float = setting(
        0.7, "StepLR period as a share of the epochs", source="IPRM script: 70 of 100", gt=0, le=1
    )
    lr_gamma: float = setting(0.1, "StepLR factor", source="IPRM script", gt=0, le=1)
    warmup: float = setting(
        0.0, "linear warm-up, as a share of the epochs", source="mmbench", ge=0, lt=1
    )
    clip_norm: float | None = setting(
        None, "clip the total gradient norm to this; none: do not clip", source="mmbench", gt=0
    )
    precision: Literal["fp32", "tf32", "bf16", "fp64"] = setting(
        "fp32",
        "tf32: products on an NVIDIA GPU in TF32; bf16: autocast; fp64: everything in double",
        source="mmbench",
    )
    init: Literal["torch", "xavier", "kaiming"] = setting(
        "torch",
        "initialisation of linear and convolutional layers that an encoder leaves open",
        source="mmbench",
    )


class RunSettings(Settings):
    """How a cell is run on this machine; never part of a cell's identity."""

    device: str = setting("auto", "auto, cpu, mps, cuda or cuda:N", source="mmbench")
    threads: int | None = setting(
        None, "torch threads per worker; none: cores divided by workers", source="mmbench", ge=1
    )
    gpus_per_cell: int = setting(
        1, "processes that train one cell together, each on its own GPU (or on the CPU)",
        source="mmbench", ge=1,
    )  # fmt: skip
    checkpoint_seconds: float = setting(
        60.0, "also write a checkpoint inside an epoch after this long", source="mmbench", ge=0
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = setting(
        "auto", "layout of images in memory; auto: channels_last on a GPU", source="mmbench"
    )
    compile: bool = setting(False, "compile the encoders with torch.compile", source="mmbench")
    resident_fraction: float = setting(
        0.5,
        "keep a set on the device if it needs less than this share of free memory, which the cells "
        "at once on a GPU divide",
        source="mmbench", ge=0, le=1,
    )  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where this process stands among those of its cell.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local: its number on this machine.
        neighbours: how many there are on this machine.
    """

    rank: int
    size: int
    local: int
    neighbours: int


def torchrun_place() -> Place | None:
    """Return what torchrun says in the environment; None if it did not start this process."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(name in os.environ for name in names):
        return None
    return Place(*(int(os.environ[name]) for name in names))


def default_cache() -> Path:
    """Return the folder of prepared data: ``$MMBENCH_CACHE``, else ``~/.cache/mmbench``."""
    return Path(os.environ.get("MMBENCH_CACHE") or "~/.cache/mmbench").expanduser()


def weights_folder() -> Path:
    """Return the folder of pretrained weights: ``$MMBENCH_WEIGHTS``, else beside the caches."""
    return Path(os.environ.get("MMBENCH_WEIGHTS") or default_cache() / "weights").expanduser()


def downloads_allowed() -> bool:
    """Say whether pretrained weights may be fetched: ``$MMBENCH_ALLOW_DOWNLOAD`` is 1."""
    return os.environ.get("MMBENCH_ALLOW_DOWNLOAD") == "1"


def slurm_job() -> str | None:
    """Return the SLURM job that this process runs in, as ``17`` or ``17_3``; None outside."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def set_weights(folder: Path | None, allow_download: bool) -> None:
    """Settle both for this process and the workers that it starts."""
    if folder is not None:
        os.environ["MMBENCH_WEIGHTS"] = str(folder.absolute())
    if allow_download:
        os.environ["MMBENCH_ALLOW_DOWNLOAD"] = "1"
