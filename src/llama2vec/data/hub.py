"""Data sets that are not files here: ``hf:`` (Hugging Face) and ``ir:`` (ir_datasets)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

from llama2vec.errors import CorpusFormatError, Llama2VecError, MissingDependencyError

ItemT = TypeVar("ItemT")


def is_remote(source: str) -> bool:
    """Tell whether a source is a data set's name and not a path."""
    return source.startswith(("hf:", "ir:"))


def open_hub_dataset(where: str, default_split: str = "train") -> Iterable[Mapping[str, object]]:
    """Open ``hf:NAME[:CONFIG][:SPLIT]`` for streaming.

    Args:
        where: The source; a split that it names goes before ``default_split``.
        default_split: Taken where the source names none; ``train`` stands for the only split, too.

    Raises:
        CorpusFormatError: No such data set, configuration or split.
        MissingDependencyError: The package datasets is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(f"{where} needs the package datasets; pip install 'llama2vec[hub]'") from None
    name, *rest = where.removeprefix("hf:").split(":")
    if not name or len(rest) > 2:
        raise CorpusFormatError(f"{where} names no dataset; write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    config, split = [*(part or None for part in rest), None, None][:2]
    try:
        # One word after the name is a configuration if there is one so called, else a split.
        if config and len(rest) == 1 and config not in datasets.get_dataset_config_names(name):
            config, split = None, config
        opened: Any = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:
        raise _unreachable(where, error) from error
    if not isinstance(opened, Mapping):
        return cast("Iterable[Mapping[str, object]]", opened)
    splits = list(opened)
    only = len(splits) == 1 and default_split == "train"
    if default_split not in splits and not only:
        known = ", ".join(splits)
        raise CorpusFormatError(f"{where} has the splits {known}; choose one: hf:{name}:{config or ''}:SPLIT")
    return cast("Iterable[Mapping[str, object]]", opened[splits[0] if only else default_split])


def open_ir_dataset(where: str) -> Any:
    """Return the data set of ``ir:ID``; nothing is downloaded before its rows are asked for.

    Raises:
        CorpusFormatError: No such data set.
        MissingDependencyError: The package ir_datasets is not installed.
    """
    try:
        import ir_datasets
    except ImportError:
        raise MissingDependencyError(f"{where} needs the package ir_datasets; pip install 'llama2vec[hub]'") from None
    try:
        return ir_datasets.load(where.removeprefix("ir:"))
    except Exception as error:
        raise _unreachable(where, error) from error


def ir_rows(where: str) -> Iterator[dict[str, object]]:
    """Stream the documents of ``ir:ID`` as objects with ``_id``, ``text`` and, where they have one, ``title``.

    Raises:
        CorpusFormatError: No such data set, or one without documents.
        MissingDependencyError: The package ir_datasets is not installed.
    """
    documents = _ir_documents(open_ir_dataset(where), where)
    return _ir_objects(reported(documents, where))


def _ir_objects(documents: Iterable[Any]) -> Iterator[dict[str, object]]:
    for document in documents:
        # MS MARCO documents call their text the body.
        text = getattr(document, "text", getattr(document, "body", None))
        if hasattr(document, "title") and text is not None:
            yield {"_id": document.doc_id, "title": document.title, "text": text}
        else:
            yield {"_id": document.doc_id, "text": document.default_text()}


def _ir_documents(dataset: Any, where: str) -> Iterable[Any]:
    try:
        if not dataset.has_docs():
            raise CorpusFormatError(f"{where} has no documents of its own; name the data set that holds them")
        return cast("Iterable[Any]", dataset.docs_iter())
    except Llama2VecError:
        raise
    except Exception as error:
        raise _unreachable(where, error) from error


def reported(items: Iterable[ItemT], where: str) -> Iterator[ItemT]:
    """Pass items on; a failure of their source (network, broken archive) becomes one line."""
    try:
        yield from items
    except Exception as error:
        raise _unreachable(where, error) from error


def _unreachable(where: str, error: Exception) -> CorpusFormatError:
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return CorpusFormatError(f"{where} cannot be read ({reason}); check the name and the network")
