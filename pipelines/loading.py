"""From a name to a stock pipeline, with one sentence where that fails.

A name is `shapes-unet` or another embedded model's, a folder that diffusers saved, a
`.safetensors` checkpoint, or the id of a repository on the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ModelNotFoundError
from ..plan import Plan

_EMBEDDED = "shapes-"
_RUNTIMES = ("onnxruntime", "openvino", "tensorrt")
_INDEX = "model_index.json"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_LINK = re.compile(r"https?://")
_CHECKPOINTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".gguf")


def load_pipeline(model: str | Path) -> Any:
    """The stock diffusers pipeline of that name, on the CPU, in the dtype diffusers gives it.

    Raises `ModelNotFoundError`, before anything heavy is imported where the name alone tells.
    """
    if isinstance(model, str) and model.startswith(_EMBEDDED) and not Path(model).exists():
        return _embedded(model)
    check_name(model)
    path = Path(model).expanduser()
    with clear_errors(model):
        if path.is_file():
            return _from_checkpoint(path)
        from diffusers import DiffusionPipeline

        place = str(path) if path.exists() else model
        return DiffusionPipeline.from_pretrained(place, **exported_modules(model))


def exported_modules(model: object, given: Collection[str] = ()) -> dict[str, Any]:
    """What stands for the weights that an exported folder lacks, but for components `given`.

    Nothing for any other model.
    """
    from ..export.sessions_absent import absent_modules, is_export

    return absent_modules(str(model), given) if is_export(model) else {}


def with_sessions(plan: Plan, model: object) -> Plan:
    """A plan under which an exported folder's graphs are computed, by ONNX Runtime unless it says.

    Where the plan doesn't say in which precision, it is the one that they were exported in. A plan
    for any other model is left as it is.
    """
    from ..export.sessions_absent import denoiser_precision, is_export

    if not is_export(model):
        return plan
    precision = denoiser_precision(str(model))
    chosen = next((each for each in plan.passes if each.name in _RUNTIMES), None)
    if chosen is None:
        return plan.override(onnxruntime={"precision": precision})
    usual = type(chosen)().options["precision"]
    said = chosen.options["folder"] is not None or chosen.options["precision"] != usual
    # from graphs in floats OpenVINO computes in what it likes, and TensorRT as the weights are
    fits = chosen.name == "tensorrt" or (chosen.name == "openvino" and precision != "int8")
    return plan if said or fits else plan.override(**{chosen.name: {"precision": precision}})


def check_name(model: object, verb: str | None = None) -> None:
    """Refuse what can't name a model, or one that `verb` can't load: `ModelNotFoundError`.

    Opens nothing and asks nobody: whether the hub has a repository only shows when it is asked.
    """
    if not isinstance(model, (str, os.PathLike)) or not str(model).strip():
        raise ModelNotFoundError(
            f"A model is named by a hub id, a folder or a file, not {model!r}."
        )
    path = Path(model).expanduser()
    if path.is_dir():
        _check_folder(path, verb)
    elif path.is_file():
        _check_file(path, verb)
    elif not isinstance(model, str) or not _may_be_remote(model, verb):
        raise ModelNotFoundError(
            f"There is no model '{model}': it is no folder, no file and no hub id (OWNER/NAME)."
        )


@contextmanager
def clear_errors(model: object) -> Iterator[None]:
    """Turn what diffusers and the hub raise for a missing or unreadable model into one sentence.

    Raises `ModelNotFoundError` from the original error; mistakes in other arguments pass through.
    """
    from huggingface_hub.errors import HFValidationError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, HFValidationError, SafetensorError) as error:
        raise ModelNotFoundError(_sentence(model, error)) from error


def _embedded(model: str) -> Any:
    from .. import shapes

    try:
        return shapes.load(model.removeprefix(_EMBEDDED))
    except shapes.WeightsError as error:
        raise ModelNotFoundError(f"{model} can't be loaded: {error}") from error
    except (ValueError, KeyError, OSError) as error:
        raise ModelNotFoundError(f"There is no embedded model '{model}': {error}") from error


def _check_folder(folder: Path, verb: str | None) -> None:
    if verb == "from_single_file":
        raise ModelNotFoundError(f"{folder} is a folder: load it with from_pretrained.")
    if not (folder / _INDEX).is_file():
        part = (folder / "config.json").is_file()
        what = "holds one component of a pipeline" if part else "is no saved diffusers pipeline"
        raise ModelNotFoundError(
            f"{folder} {what}: name a folder with a {_INDEX}, as pipe.save_pretrained writes it."
        )


def _check_file(file: Path, verb: str | None) -> None:
    if verb == "from_pretrained":
        raise ModelNotFoundError(f"{file} is a file: load it with from_single_file.")
    if file.suffix not in _CHECKPOINTS:
        raise ModelNotFoundError(f"{file} is no checkpoint: name a .safetensors file or a folder.")


def _may_be_remote(model: str, verb: str | None) -> bool:
    if verb == "from_single_file":
        return _LINK.match(model) is not None
    return _HUB_ID.fullmatch(model) is not None and not model.endswith(_CHECKPOINTS)


def _from_checkpoint(path: Path) -> Any:
    """The pipeline that a checkpoint of a whole model belongs to, known by its tensors' names."""
    import diffusers

    if path.suffix != ".safetensors":
        raise ModelNotFoundError(f"{path} can't be read safely: convert it to .safetensors first.")
    home = _home_of(path)
    with clear_errors(home):
        index = diffusers.DiffusionPipeline.load_config(home)
    stock = getattr(diffusers, index["_class_name"])
    try:
        return stock.from_single_file(str(path))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelNotFoundError(
            f"{path} can't be loaded as a {stock.__name__}: {error}"
        ) from error


def _home_of(path: Path) -> str:
    """The hub id of the model that a checkpoint is a version of; reads the file's header alone."""
    import torch
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    home: str = fetch_diffusers_config(tensors)["pretrained_model_name_or_path"]
    # Whatever diffusers doesn't know, it takes for Stable Diffusion 1.
    known = any(name.startswith("model.diffusion_model.") for name in tensors)
    if "stable-diffusion-v1" in home and not known:
        raise ModelNotFoundError(
            f"{path} holds no model that diffusers knows by its tensors' names."
        )
    return home


def _sentence(model: object, error: BaseException) -> str:
    """What went wrong, from the errors that led to this one."""
    from huggingface_hub import errors

    causes = list(_causes(error))
    if any(isinstance(each, errors.GatedRepoError) for each in causes):
        return f"The hub gives {model} to accepted users only: accept its terms there, then log in."
    if any(isinstance(each, errors.RepositoryNotFoundError) for each in causes):
        return f"The hub has no repository {model}, or it is private: check the id, or log in."
    if any(isinstance(each, errors.OfflineModeIsEnabled) or _is_network(each) for each in causes):
        return (
            f"{model} is not in the local cache and the hub can't be reached: go online once, or "
            "name a folder; shapes-unet always works."
        )
    return f"{model} can't be loaded: {' '.join(str(error).split())}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_network(error: BaseException) -> bool:
    """Whether the connection failed, whichever HTTP client the hub's library uses."""
    from socket import gaierror

    network = (ConnectionError, TimeoutError, gaierror)
    return isinstance(error, network) or type(error).__name__.startswith(("Connect", "Proxy"))
