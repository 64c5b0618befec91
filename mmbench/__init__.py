"""mmbench: one protocol for every method against modality imbalance.

The names below are the whole surface that a plug-in needs. They are imported on first use, so that
``import mmbench`` (and with it the command line's ``--help``) does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmbench.dataset import Dataset, DatasetConfig, DatasetInfo, Modality, SplitArrays, Task
    from mmbench.errors import MMBenchError, UserError
    from mmbench.method import (
        UNKNOWN,
        Batch,
        Deviation,
        Fit,
        Method,
        MethodConfig,
        Needs,
        ParameterGroup,
        log_entries,
        of_trainer,
    )
    from mmbench.registry import register_dataset, register_encoder, register_method
    from mmbench.settings import Settings, setting

__version__ = "0.1.0"

_HOMES = {
    "Batch": "method",
    "Dataset": "dataset",
    "DatasetConfig": "dataset",
    "DatasetInfo": "dataset",
    "Deviation": "method",
    "Fit": "method",
    "MMBenchError": "errors",
    "Method": "method",
    "MethodConfig": "method",
    "Modality": "dataset",
    "Needs": "method",
    "ParameterGroup": "method",
    "Settings": "settings",
    "SplitArrays": "dataset",
    "Task": "dataset",
    "UNKNOWN": "method",
    "UserError": "errors",
    "log_entries": "method",
    "of_trainer": "method",
    "register_dataset": "registry",
    "register_encoder": "registry",
    "register_method": "registry",
    "setting": "settings",
}

__all__ = [
    "UNKNOWN",
    "Batch",
    "Dataset",
    "DatasetConfig",
    "DatasetInfo",
    "Deviation",
    "Fit",
    "MMBenchError",
    "Method",
    "MethodConfig",
    "Modality",
    "Needs",
    "ParameterGroup",
    "Settings",
    "SplitArrays",
    "Task",
    "UserError",
    "__version__",
    "log_entries",
    "of_trainer",
    "register_dataset",
    "register_encoder",
    "register_method",
    "setting",
]


def __getattr__(name: str) -> Any:  # Any: a module attribute of whatever type the home defines
    if name not in _HOMES:
        raise AttributeError(f"module 'mmbench' has no attribute {name!r}")
    return getattr(import_module(f"mmbench.{_HOMES[name]}"), name)
