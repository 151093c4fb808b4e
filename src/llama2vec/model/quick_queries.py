"""Queries read by a model's query reader, which the first query writes into the user's cache.

The rule of that cache, ``readers/`` in :func:`cache_folder`: one folder for each model and way of reading it. Its plan
names all that decides the vectors: content of the model's files, prompts, versions of the libraries, abilities of the
processor. A reader with another plan, or a damaged one, is never used; the next search replaces it. Those that were not
used for longest are removed where there are more than :data:`MOST_READERS`, or more than :data:`MOST_BYTES` in all.
``LLAMA2VEC_QUERY_READERS=0`` turns readers off.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from llama2vec.artifact import claim, discard, owned
from llama2vec.config import ModelSettings
from llama2vec.errors import Llama2VecError, ModelError, one_line
from llama2vec.manifest import digest, versions
from llama2vec.model.batching import texts_of
from llama2vec.model.device import choose_device, choose_dtype, cpu_has_bfloat16
from llama2vec.model.golden import GOLDEN_TEXTS
from llama2vec.model.lengths import Cut
from llama2vec.model.local import fetched
from llama2vec.model.source import ModelSource, ModelSpec, cache_folder, weights_fingerprint
from llama2vec.model.speed.query_reader import FORMAT, READER, READER_FILE, QueryReader, reader_facts, write_reader
from llama2vec.records import Query, Vectors

logger = logging.getLogger(__name__)

SWITCH = "LLAMA2VEC_QUERY_READERS"
MOST_READERS, MOST_BYTES = 4, 4 << 30
_LIBRARIES = ("llama2vec", "torch", "transformers", "tokenizers")
_OTHER_FILES = ("*.json", "*.model", "*.txt", "*.tiktoken")  # What a model's folder holds beside its weights
_PROBES = (*GOLDEN_TEXTS, "", "  two  spaces\tand a tab ", "Что такое крыло? 翼とは何ですか", "the wing flutters " * 40)
_LEAST_COSINE = 0.99999


class QuickQueries:
    """The encoder that a spec names, for queries: a few short ones are read by its query reader, others by the model.

    The model is loaded when it is needed. Where it gives a reader, the first query writes it.

    Args:
        spec: The model.
        settings: How to load it.

    Raises:
        ModelNotFoundError, ModelError: As :func:`fetched`.
    """

    def __init__(self, spec: ModelSpec, settings: ModelSettings) -> None:
        self._spec, self._settings = spec, settings
        self._source = fetched(spec.source())
        self._encoder: Any = None
        self._reader: QueryReader | None = None
        self._is_known = not _may_have_reader(settings)  # Whether there is nothing to write
        if not self._is_known:
            self._folder, self._plan = reader_place(spec, settings), reader_plan(spec, self._source, settings)
            self._open()

    @property
    def contract_hash(self) -> str:
        """Hash of what decides the vectors."""
        return self._reader.contract_hash if self._reader else str(self._model().contract_hash)

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """Return [Q, D] unit vectors; errors as :meth:`Encoder.encode_queries`."""
        if not self._is_known:
            self._write()
        if self._reader is not None and (found := self._reader.vectors(texts_of(queries))) is not None:
            return found
        vectors: Vectors = self._model().encode_queries(queries)
        return vectors

    def cut_queries(self, queries: Sequence[Query]) -> Cut:
        """Return how many queries are longer than what is read of them; the model is loaded only without a reader."""
        if self._reader is None:
            found: Cut = self._model().cut_queries(queries)
            return found
        count = self._reader.count_cut(texts_of(queries))
        return Cut(count, self._reader.most_tokens, self._source.carries_contract)

    def _model(self) -> Any:
        if self._encoder is None:
            from llama2vec.model.encoder import Encoder

            self._encoder = Encoder.from_spec(self._spec, self._settings, self._source)
        return self._encoder

    def _open(self) -> None:
        """Open the reader with our plan, or find out that there can be none."""
        facts = reader_facts(self._folder)
        if facts is None or facts["plan"] != self._plan:
            return
        self._reader = QueryReader.open(self._folder)
        self._is_known = self._reader is not None or "refused" in facts
        with suppress(OSError):  # The time of the last use
            os.utime(self._folder / READER_FILE)

    def _write(self) -> None:
        """Write the reader of the model, check it against the model, and open it."""
        self._is_known, encoder = True, self._model()
        if not encoder.short_reading.is_possible:
            return
        if self._plan != reader_plan(self._spec, self._source, self._settings):
            return  # The model has changed meanwhile.
        name = self._source.name
        try:
            if reader_facts(self._folder) is None:
                discard(self._folder, READER)  # What is left of a damaged one
            with claim(self._folder, READER, self._plan, overwrite=True) as work:
                refused = write_reader(work.begin(), self._plan, encoder)
                reader = None if refused else _checked(QueryReader.open(work.path), encoder)
                work.finish()
        # A reader only saves time: full disks, read-only caches and other processes end in errors of many libraries.
        except Exception as error:
            logger.info("%s: no query reader was written: %s", name, one_line(error))
            return
        self._reader = reader
        if refused:
            logger.debug("%s has no query reader: %s", name, refused)
        else:
            size = _size(self._folder) / 1e6
            logger.info("%s: wrote %s (%.0f MB); later searches start faster", name, self._folder, size)
        remove_old_readers(keep=self._folder)


def reader_place(spec: ModelSpec, settings: ModelSettings) -> Path:
    """Return the folder of a model's reader: one for each way of reading it."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", spec.title).strip("-.") or "model"
    return cache_folder() / "readers" / f"{name}-{digest([spec.model_dump(), _loading(settings)])[:12]}"


def reader_plan(spec: ModelSpec, source: ModelSource, settings: ModelSettings) -> dict[str, Any]:
    """Return all that decides the vectors of a reader."""
    weights, folder = source.weight_files(), Path(source.location)
    others = [] if source.gguf_file else [file for pattern in _OTHER_FILES for file in sorted(folder.glob(pattern))]
    installed = versions()
    return {
        **FORMAT,
        "files": weights_fingerprint([*weights, *(file for file in others if file.is_file())]),
        "reading": spec.model_dump(mode="json", include={"prompts", "encoder", "layers"}),
        "loading": _loading(settings),
        "versions": {name: installed.get(name) for name in _LIBRARIES},
        "processor": dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {},
    }


def remove_old_readers(keep: Path) -> None:
    """Remove the readers beyond the limits that were not used for longest, but not ``keep``; so with refusals."""
    with suppress(OSError):
        found = {folder: facts for folder in keep.parent.iterdir() if (facts := reader_facts(folder))}
        used = {folder: (folder / READER_FILE).stat().st_mtime for folder in found}
        for refused in (False, True):
            group = [folder for folder, facts in found.items() if ("refused" in facts) == refused and folder != keep]
            count, size = 1, _size(keep)
            for folder in sorted(group, key=lambda one: -used[one]):
                count, size = count + 1, size + _size(folder)
                if count > MOST_READERS or size > MOST_BYTES:
                    with suppress(Llama2VecError), owned(folder):
                        discard(folder, READER)


def _may_have_reader(settings: ModelSettings) -> bool:
    """Tell whether a model loaded like this could have a reader: in bfloat16, on a CPU that multiplies it natively."""
    if os.environ.get(SWITCH, "1").strip().lower() in ("0", "off", "false", "no"):
        return False
    device = choose_device(settings.device)
    return device.type == "cpu" and cpu_has_bfloat16() and choose_dtype(settings.dtype, device) == torch.bfloat16


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _loading(settings: ModelSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", include={"attention", "layers"})


def _checked(reader: QueryReader | None, encoder: Any) -> QueryReader:
    """Return a reader; raise a ModelError unless it gives the vectors of its encoder."""
    if reader is None:
        raise ModelError("it cannot be read again")
    special = " ".join(map(str, encoder.backbone.tokenizer.all_special_tokens))
    for probe in (*_PROBES, special):
        found = reader.vectors([probe])
        # None: too long for the reader
        if found is not None and not float(found[0] @ encoder.encode_queries(probe)) >= _LEAST_COSINE:
            raise ModelError(f"it gives another vector to {probe[:40]!r}")
    return reader
