"""What a run leaves behind: written once, atomically, and never edited."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mmbench.cell import Cell
from mmbench.wording import counted

SCHEMA = 1  # raise it when a field changes meaning; older versions refuse newer records

Metrics = dict[str, dict[str, float]]  # prediction ("fused" or a modality) -> metric -> value


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Part(BaseModel):
    """Base of a record's parts: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Environment(Part):
    """Where and with what a run was made.

    Attributes:
        commit: of mmbench's code; None: not from a git checkout, as in an installed wheel.
        clean: whether that code was unchanged since the commit.
        memory_format: layout of the encoders' weights and feature maps.
        compiled: whether the encoders were compiled.
        kernels: whether encoders used mmbench's own kernels.
        ranks: processes that trained the cell together, each on a device of that name.
    """

    mmbench: str
    python: str
    libraries: dict[str, str]
    commit: str | None = None
    clean: bool | None = None
    platform: str
    device: str
    device_name: str
    threads: int
    memory_format: str = "contiguous"
    compiled: bool = False
    kernels: bool = False
    ranks: int = 1

    @property
    def hardware(self) -> str:
        """The device's name, and how many were used if several: times compare within one."""
        return self.device_name if self.ranks == 1 else f"{self.ranks} x {self.device_name}"

    @property
    def way(self) -> str:
        """How the device was used, in words: times compare within one."""
        layout = [self.memory_format] if self.memory_format != "contiguous" else []
        special = {"compiled": self.compiled, "own kernels": self.kernels}
        used = [word for word, has in special.items() if has]
        return ", ".join([counted(self.threads, "thread"), *layout, *used])


class Data(Part):
    """Which samples were used.

    Attributes:
        sizes: samples per split.
        absent: classes without a sample, per split, which MAP leaves out; empty if not counted.
    """

    split_hash: str
    data_hash: str
    sizes: dict[str, int]
    absent: dict[str, int] = Field(default_factory=dict)


class EpochRow(Part):
    """One epoch of the curve.

    Attributes:
        lr: base learning rate.
        train: means over the steps of what the method logged (losses and diagnostics).
        gradient_norm: mean norm of the gradient that each encoder was updated with, so after
            whatever the method did to it and before clipping, over every tenth update.
        val: validation metrics; empty under ``published``.
        test: test metrics; empty under ``validated``.
        seconds: time of the training steps alone.
    """

    epoch: int
    lr: float
    train: dict[str, float]
    gradient_norm: dict[str, float] = Field(default_factory=dict)
    val: Metrics = Field(default_factory=dict)
    test: Metrics = Field(default_factory=dict)
    seconds: float


class Selection(Part):
    """Which epoch was chosen, and by what."""

    rule: str
    split: Literal["val", "test"]
    metric: str
    epoch: int
    value: float


class Timing(Part):
    """Seconds; the first epoch is left out of mean and spread when there are others."""

    epoch_mean: float
    epoch_std: float
    samples_per_second: float
    training: float
    total: float
    resumed: int


class Memory(Part):
    """Peak of training, in bytes: of the ``cuda`` allocator, or the process's resident set."""

    peak_bytes: int
    kind: Literal["cuda", "resident"]


class Parameters(Part):
    """Number of parameters."""

    total: int
    trainable: int


class Imbalance(Part):
    """How unevenly the modalities count at the end of training, on the test split.

    Attributes:
        fill: what stands for an absent modality.
        subsets: accuracy of the fused prediction with only these modalities, e.g. ``audio+image``;
            the empty name is none of them.
        shapley: share of each modality in the accuracy; they add up to all minus none.
        probe: accuracy of a linear probe on each encoder's frozen features.
    """

    fill: str = ""
    subsets: dict[str, float] = Field(default_factory=dict)
    shapley: dict[str, float] = Field(default_factory=dict)
    probe: dict[str, float] = Field(default_factory=dict)


class Failure(Part):
    """Why a cell failed.

    Attributes:
        final: workers of a sweep do not try the cell again.
        log: the end of what its worker wrote, where no traceback tells all.
    """

    kind: str
    message: str
    traceback: str
    final: bool = False
    log: str = ""


class Record(Part):
    """One finished, refused or failed run.

    Attributes:
        final: test metrics at the ``selected`` and at the ``last`` epoch; of compiled encoders only
            at the last, so that the two may differ by rounding where the epochs are one.
        remark: what every output must say about this cell.
        reason: why a refused cell was refused.
        imbalance: the imbalance reached at the selected epoch.
    """

    schema_version: int = SCHEMA
    cell_id: str
    cell: Cell
    status: Literal["done", "refused", "failed"]
    started: str
    finished: str
    environment: Environment
    data: Data | None = None
    remark: str | None = None
    reason: str | None = None
    curve: list[EpochRow] = Field(default_factory=list)
    selection: Selection | None = None
    final: dict[str, Metrics] = Field(default_factory=dict)
    imbalance: Imbalance = Field(default_factory=Imbalance)
    timing: Timing | None = None
    memory: Memory | None = None
    parameters: Parameters | None = None
    failure: Failure | None = None
    task: dict[str, Any] = Field(default_factory=dict)
