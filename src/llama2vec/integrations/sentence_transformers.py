"""Open a saved encoder with sentence-transformers without trusting code in its folder."""

from __future__ import annotations

import inspect
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama2vec.errors import ContractError, MissingDependencyError
from llama2vec.manifest import package_version
from llama2vec.model.contract import CONTRACT_FILE, load_contract
from llama2vec.model.local import fetched
from llama2vec.model.publish.portable_files import MODULE_CLASS, MODULE_FILE, MODULES_FILE, STOCK_MODULES, module_source
from llama2vec.model.source import ModelSource, resolve_model
from llama2vec.model.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_sentence_transformer(name: str | Path, **options: Any) -> SentenceTransformer:
    """Return a saved encoder as a sentence-transformers model.

    sentence-transformers runs the Python module in a model's folder only with ``trust_remote_code=True``. That is safe
    here, since the folder must name no code but ``portable_encoder.py``, byte for byte as in this package.

    Vectors that ``truncate_dim`` cuts have unit length again, which sentence-transformers alone leaves to
    ``normalize_embeddings``.

    Args:
        name: Folder or hub id of a saved encoder.
        options: Passed to ``SentenceTransformer``: ``device``, ``truncate_dim``, ``model_kwargs``, …;
            ``trust_remote_code`` has no effect.

    Raises:
        MissingDependencyError: sentence-transformers is not installed.
        ContractError: The folder lacks the module, names other code, or comes from another version; or its weights,
            config or tokenizer are not those of its contract.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError(
            "this needs sentence-transformers; run: pip install 'llama2vec[sentence-transformers]'"
        ) from error
    folder = Path(fetched(resolve_model(str(name))).location)
    own = check_own_code(folder)
    check_contract(folder)
    model = SentenceTransformer(str(folder), **{**options, "trust_remote_code": own})
    model.encode = partial(_encode_at_unit_length, model)  # type: ignore[method-assign]
    return model


def check_contract(folder: Path) -> None:
    """Check a folder's files against its contract, as loading an encoder does."""
    ModelSource(str(folder), str(folder)).check_files()
    if not (folder / CONTRACT_FILE).is_file():
        raise ContractError(
            f"{folder}: no {CONTRACT_FILE}; open it with SentenceTransformer(…), or load and save the model again with "
            "llama2vec"
        )
    load_contract(folder, load_tokenizer(str(folder))).check_files(folder)


def _encode_at_unit_length(model: SentenceTransformer, *given: Any, **options: Any) -> Any:
    """Encode as the model's class does, with shortened vectors at unit length."""
    encode = type(model).encode
    call = inspect.signature(encode).bind(model, *given, **options)
    if call.arguments.get("truncate_dim") is not None or model.truncate_dim is not None:
        call.arguments["normalize_embeddings"] = True
    return encode(*call.args, **call.kwargs)


def check_own_code(folder: Path) -> bool:
    """Return whether a folder names this package's own module, or no code at all, as a servable encoder does.

    Raises:
        ContractError: It names other code.
    """
    module, named = folder / MODULE_FILE, _named_modules(folder)
    if named == list(STOCK_MODULES):
        _check_no_code(folder)
        return False
    if not module.is_file():
        raise ContractError(f"{folder}: {MODULE_FILE} is missing; load and save the model again with llama2vec")
    if module.read_bytes() != module_source():
        raise ContractError(
            f"{module} differs from that of llama2vec {package_version()} and was not run; load and save the model "
            "again, or read the file and open the folder with SentenceTransformer(…, trust_remote_code=True)"
        )
    if named != [(MODULE_CLASS, "")]:
        raise ContractError(
            f"{folder / MODULES_FILE} names code other than {MODULE_FILE}; nothing was run; "
            "load and save the model again"
        )
    _check_no_code(folder)
    return True


def _named_modules(folder: Path) -> list[Any]:
    path = folder / MODULES_FILE
    modules = _read_json(path) if path.is_file() else []
    entries = modules if isinstance(modules, list) else []
    return [(one.get("type"), one.get("path")) if isinstance(one, dict) else one for one in entries]


def _check_no_code(folder: Path) -> None:
    """Raise a ContractError if a config of the folder names code."""
    for path in sorted(folder.glob("*config*.json")):
        settings = _read_json(path)
        if isinstance(settings, dict) and "auto_map" in settings:
            raise ContractError(
                f"{path} names code of its own (auto_map); nothing was run; remove the entry, or load and save the "
                "model again"
            )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: cannot be read as JSON ({error}); load and save the model again") from None
