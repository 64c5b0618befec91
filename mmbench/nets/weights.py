"""Pretrained weights: from a folder on this machine; from their site only if that was allowed."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from mmbench.errors import UserError
from mmbench.settings import downloads_allowed, weights_folder

ADVICE = (
    "put it there, name another folder with --weights DIR (or MMBENCH_WEIGHTS), or allow the "
    "download with --allow-download"
)


def from_pretrained(kind: str, name: str) -> Any:  # Any: transformers is an extra
    """Load a model or tokenizer of transformers.

    Args:
        kind: one of its Auto classes, e.g. ``AutoModel``.
        name: the folder below the weights folder; also its name at the hub.

    Raises:
        UserError: if transformers or the folder is missing, or the folder cannot be used.
    """
    try:
        import transformers
    except ModuleNotFoundError as err:
        raise UserError(f"{name!r} needs transformers: pip install 'mmbench[pretrained]'") from err
    folder = weights_folder() / name
    if not folder.is_dir() and not downloads_allowed():
        raise UserError(f"there is no folder {folder} with the pretrained {name!r}; {ADVICE}")
    place = str(folder) if folder.is_dir() else name
    try:
        return getattr(transformers, kind).from_pretrained(
            place, local_files_only=folder.is_dir(), trust_remote_code=False
        )
    except (OSError, ValueError) as err:
        raise UserError(
            f"cannot load the pretrained {name!r} from {place}: {str(err).splitlines()[0]}; it "
            "must be what save_pretrained writes, tokenizer files included"
        ) from err


def state_of(file: str, url: str = "") -> dict[str, Tensor]:
    """Load tensors that torch saved.

    Args:
        file: its name in the weights folder.
        url: where it is fetched from, if that was allowed; empty: from nowhere.

    Raises:
        UserError: if it is missing or damaged.
    """
    path: Path = weights_folder() / file
    if not path.is_file():
        if not (url and downloads_allowed()):
            raise UserError(f"there is no file {path} with pretrained weights; {ADVICE}")
        torch.hub.download_url_to_file(url, str(_folder(path)), progress=False)
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as err:
        raise UserError(
            f"cannot read the weights {path} ({type(err).__name__}); get the file again"
        ) from err
    return state


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def fill(
    module: torch.nn.Module, state: dict[str, Tensor], file: str, without: tuple[str, ...]
) -> None:
    """Copy ``state`` into ``module``; only keys that begin with one of ``without`` may differ.

    Raises:
        UserError: if others are missing, unknown or of another shape.
    """
    own = module.state_dict()
    usable = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    strange = [k for k in {*own, *state} - set(usable) if not k.startswith(without)]
    if strange:
        raise UserError(
            f"the weights {file} do not fit this encoder (e.g. {sorted(strange)[0]}); get the file "
            "that mmbench show prints for it"
        )
    module.load_state_dict({**own, **usable})
