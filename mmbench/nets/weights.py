"""Pretrained weights: from a folder on this machine; from their site only if that was allowed."""

from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from mmbench.cell import digest
from mmbench.data.manifest import sha256
from mmbench.errors import UserError
from mmbench.settings import downloads_allowed, weights_folder

ADVICE = (
    "put it there, name another folder with --weights DIR (or MMBENCH_WEIGHTS), or allow the "
    "download with --allow-download"
)


def from_pretrained(kind: str, name: str) -> Any:  # Any: transformers is an extra
    """Load a model or tokenizer of transformers.

    Args:
        kind: one of its classes, e.g. ``AutoModel`` or ``AutoTokenizer``.
        name: the folder below the weights folder; also its name at the hub.

    Raises:
        UserError: if transformers or the folder is missing, the folder cannot be used, or it
            lacks some of the model's weights.
    """
    library = _transformers(name)
    folder = _folder_of(name)
    options: dict[str, Any] = {"local_files_only": folder is not None, "trust_remote_code": False}
    if "Model" in kind:
        options["output_loading_info"] = True
    try:
        found = getattr(library, kind).from_pretrained(str(folder or name), **options)
    except (OSError, ValueError, RuntimeError) as err:
        raise UserError(
            f"cannot load the pretrained {name!r} from {folder or 'the hub'}: "
            f"{str(err).strip().splitlines()[0]}; it must be what save_pretrained writes, "
            "tokenizer files included"
        ) from err
    if "Model" not in kind:
        return found
    model, told = found
    if lacking := sorted(told["missing_keys"]):  # these would stay random
        raise UserError(
            f"the pretrained {name!r} in {folder or 'the hub'} lacks weights of a {kind} (e.g. "
            f"{lacking[0]}); it is of another architecture, or not whole"
        )
    return model


def config_of(name: str) -> Any:  # Any: as above
    """Load the settings of a pretrained model, without its weights.

    Raises:
        UserError: as ``from_pretrained``.
    """
    return from_pretrained("AutoConfig", name)


def fingerprint(name: str) -> str:
    """Return a text that changes with the weights of a pretrained model.

    Raises:
        UserError: if it is neither in the weights folder nor may be fetched.
    """
    folder = _folder_of(name)
    if folder is None:
        return f"hub {getattr(config_of(name), '_commit_hash', None)}"
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"])
    return digest([[f.name, _hashed(f, *_stamp(f))] for f in files if f.is_file()], 24)


@cache
def _hashed(file: Path, *stamp: int) -> str:
    return sha256(file)


def _stamp(file: Path) -> tuple[int, int, int]:
    facts = file.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def _transformers(name: str) -> Any:  # Any: as above
    try:
        import transformers
    except ModuleNotFoundError as err:
        raise UserError(f"{name!r} needs transformers: pip install 'mmbench[pretrained]'") from err
    library: Any = transformers
    # It tells at length that half of a model is not used; what it lacks is said by us.
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def _folder_of(name: str) -> Path | None:
    """Return the folder of a pretrained model, or None if it may be fetched instead."""
    folder = weights_folder() / name
    if folder.is_dir():
        return folder
    if not downloads_allowed():
        raise UserError(f"there is no folder {folder} with the pretrained {name!r}; {ADVICE}")
    return None


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
