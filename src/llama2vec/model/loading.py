"""What every reading of a model's files shares: quiet transformers, errors in one line, checks, cache folders."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from llama2vec.errors import Llama2VecError, MissingDependencyError, ModelError, ModelNotFoundError, one_line
from llama2vec.files import apply_umask, is_disk_full, write_atomic
from llama2vec.model.source import ModelSource, cache_folder, scratch_folder

# Code in a model's folder never runs; without this, transformers asks on stdin for permission.
SAFE = {"trust_remote_code": False}
UNPACKED_HASH = "weights.sha256"
_NAMES_SHOWN = 3
_NUMBER = re.compile(r"\d+")
CACHE_FORMAT = "3"  # Raised when the same input gives other files, or none


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' own bars and notices while it loads or saves; errors still come through."""
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)
        hf_logging.enable_progress_bar()


@contextmanager
def model_errors(source: ModelSource) -> Iterator[None]:
    """Turn any error that transformers raises over a model's files into one line."""
    try:
        yield
    except Llama2VecError:
        raise
    except ImportError as error:
        # transformers may have named a package of its own choice already.
        remedy = "" if "pip install" in str(error) else "; pip install 'llama2vec[model]'"
        raise MissingDependencyError(f"{source.name}: {one_line(error)}{remedy}") from error
    except OSError as error:
        raise ModelNotFoundError(
            f"{source.name}: no model could be loaded from there ({one_line(error)}); "
            "give a local folder, a .gguf file or a reachable hub id"
        ) from error
    # Damaged files end in errors of many libraries: safetensors, tokenizers, pickle, torch.
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{source.name}: needs code from the model's folder, and llama2vec never runs such code; "
                "take a model that transformers itself supports"
            ) from None
        raise ModelError(
            f"{source.name}: transformers cannot load this model ({one_line(error)}); update transformers, or take "
            "another model"
        ) from error


def is_whole_in_cache(folder: Path) -> bool:
    """Tell whether a folder holds an unpacked model with the weights that were written to it."""
    try:
        return (folder / UNPACKED_HASH).read_text() == ModelSource("", str(folder)).fingerprint()
    except (OSError, UnicodeDecodeError):
        return False


@contextmanager
def into_cache(folder: Path) -> Iterator[Path]:
    """Give a new folder to write a model into, and move it to its place in the cache with a hash of its weights."""
    with _cache_errors(), ExitStack() as stack:
        with _cache_errors(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(scratch_folder(folder.parent, ".unpacking-", 0o777))
        yield partial
        with _cache_errors(OSError):
            apply_umask(partial)  # A service that runs as another user reads it
            write_atomic(partial / UNPACKED_HASH, ModelSource("", str(partial)).fingerprint().encode())
            if folder.exists() and not is_whole_in_cache(folder):
                shutil.rmtree(folder)
            try:
                partial.rename(folder)
            except OSError:
                # Another process was faster; its copy is the same.
                if not is_whole_in_cache(folder):
                    raise


@contextmanager
def _cache_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn a full disk, and errors of these kinds, into a ModelError that names the cache."""
    try:
        yield
    except Exception as error:
        full = is_disk_full(error)
        if not full and not isinstance(error, kinds):
            raise
        reason = "the disk is full" if full else (getattr(error, "strerror", None) or str(error)).lower()
        raise ModelError(
            f"the cache {cache_folder()} cannot be written ({reason}); set LLAMA2VEC_CACHE to a folder that can"
        ) from error


def weights_to_save(model: Any, missing: Collection[str]) -> dict[str, Any] | None:
    """Return a model's weights but those that its files lacked; None = all of them.

    A head that the files lacked is random, and must not look like a trained one later.
    """
    return {name: value for name, value in model.state_dict().items() if name not in missing} if missing else None


def check_weights(name: str, model: Any, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Refuse a model with missing or unread weights; return missing weights of the head, which alone may be missing.

    ``found`` is what transformers reports of loading ``model``.
    """
    head = model.get_output_embeddings()
    heads = [place for place, module in model.named_modules() if module is head]
    of_head = tuple(sorted(key for key in found["missing_keys"] if key.rpartition(".")[0] in heads))
    lost = sorted(found["missing_keys"] - set(of_head))
    # A further layer, or a bias that the config denies. Other parts, such as a vision tower or the buffers of old
    # checkpoints, do not concern the model.
    layers = {_NUMBER.sub("", key) for key in model.state_dict()}
    modules = dict(model.named_modules())
    extra = sorted(
        key
        for key in found["unexpected_keys"]
        if lost or _NUMBER.sub("", key) in layers or hasattr(modules.get(key.rpartition(".")[0]), "weight")
    )
    other = sorted(entry[0] for entry in found["mismatched_keys"])
    kinds = {"missing": lost, "unexpected": extra, "of another shape": other}
    faults = [f"{_listed(keys)} {what}" for what, keys in kinds.items() if keys]
    if faults:
        raise ModelError(
            f"{name}: the weights do not fit the model's config: {'; '.join(faults)}; take files that belong together"
        )
    return of_head


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
