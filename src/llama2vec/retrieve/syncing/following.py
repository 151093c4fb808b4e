"""Keep an index in step with a folder: words first, then vectors, once or for as long as the folder is watched."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llama2vec.artifact import read_object
from llama2vec.config import ModelSettings
from llama2vec.data.documents.folder import UNREADABLE, check_there, walk
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.errors import ConfigError, EmptyCorpusError, Llama2VecError, StoreError
from llama2vec.model.source import CONTRACT_FILE, ModelSpec
from llama2vec.records import Passage
from llama2vec.retrieve.settings import LibrarySettings
from llama2vec.retrieve.store.number_format import compute_dtype
from llama2vec.retrieve.store.reader import PassageEncoder, Vectors, VectorStore
from llama2vec.retrieve.syncing.folder_source import FolderSource, reading_plan
from llama2vec.retrieve.syncing.inventory import STORE_FOLDER, Inventory
from llama2vec.retrieve.syncing.library import Library, SyncReport, own_paths
from llama2vec.settings import LanguageSettings
from llama2vec.terminal import counted, printable_line

logger = logging.getLogger(__name__)

_SHORTEST_WAIT_SECONDS = 2.0
_RETRY_SECONDS = 60.0
"""After so long, a file that could not be read is tried again: a network drive may be back."""
_LONGEST_DELAY_SECONDS = 600.0
"""Each failed sync doubles the time until the next one, up to this: an error may pass at once, or stay for days."""
_WALKS_PER_WAIT = 20
"""Watching takes at most this share of one core: a wait lasts so many times as long as a look at the folder."""


class SyncSettings(LanguageSettings):
    """How a folder is read and indexed."""

    reading: ReadingSettings = ReadingSettings()
    passages: PassageSettings = PassageSettings()
    index: LibrarySettings = LibrarySettings()


@dataclass(frozen=True)
class Following:
    """A folder, the index that follows it, and how.

    Attributes:
        model: The encoder; None = the one that the index knows, else no vectors.
        settings: What was set for this call; the rest is as the last time.
    """

    folder: Path
    index: Path
    model: ModelSpec | None = None
    model_settings: ModelSettings = field(default_factory=ModelSettings)
    settings: SyncSettings = field(default_factory=SyncSettings)
    strict: bool = False
    words_only: bool = False  # Never load the model: an index that has vectors stays as it is
    follow: bool = False  # Let an index that followed another folder follow this one
    on_words: Callable[[SyncReport], None] = field(default=lambda report: None)  # Called when BM25 can answer

    def sync(self) -> SyncReport:
        """Bring the index up to date; where it has no vectors yet, BM25 comes first and vectors follow.

        Raises:
            Llama2VecError: As :meth:`Library.sync`, or the model cannot be used.
        """
        library = Library(self.index)
        old = library.inventory if library.exists else None
        spec, settings = self._model(old), _merged(old, self.settings)
        if self.words_only and old is not None and old.contract_hash:
            if not self._is_for(old, settings):
                raise ConfigError(
                    f"{self.index} has vectors, and takes another folder or other settings with the model alone; leave "
                    "out --words, or name another --index"
                )
            return self._left_as_it_is(old, settings)
        check_there(self.folder)  # Before the tokenizer, whose library takes seconds to import
        source = _source(self.folder, settings, spec, _patterns(old))
        options: dict[str, Any] = {"settings": settings.index, "strict": self.strict, "follow": self.follow}
        if spec is None:
            return library.sync(source, **options)
        if self.words_only:
            return library.sync(source, **options, model=old.model if old else None)
        _require_device(self.model_settings.device)
        options["model"] = spec.to_json(self.index / STORE_FOLDER)
        words = library.sync(source, **options) if old is None or not old.contract_hash else None
        if words is not None:
            self.on_words(words)
        report = library.sync(source, self._encoder(old, spec, options["model"]), **options)
        # To the second step, what the first one added is unchanged.
        return report if words is None else replace(report, counts=words.counts.then(report.counts))

    def changes(self) -> Iterator[SyncReport]:
        """Sync, then watch the folder and sync again whenever a file in it changed; ends by Ctrl-C while it waits.

        After the first sync, one that fails is logged and tried again, after longer and longer waits: the reason may
        pass, as another sync does. A folder without text waits for a change. Files that could not be read are tried
        again every minute.

        Raises:
            Llama2VecError, OSError: As :meth:`sync`, and only by the first one.
            KeyboardInterrupt: While it syncs.
        """
        seen: object = None
        is_watching, told, again, delay = False, "", math.inf, 0.0
        while True:
            begun, took = time.monotonic(), 0.0
            library = Library(self.index)
            try:
                old = library.inventory if library.exists else None
                reading = _merged(old, self.settings).reading
                found = walk(self.folder, reading, without=own_paths(self.index), told=_patterns(old))
                now = [(file.name, file.size, file.modified_ns, file.changed_ns) for file in found.files]
                took = time.monotonic() - begun
                if now != seen or begun >= again:
                    differs, seen, again = now != seen, now, math.inf
                    report = self.sync()
                    if any(one.reason.startswith(UNREADABLE) for one in report.reading.skipped):
                        again = time.monotonic() + _RETRY_SECONDS
                    if differs or report.is_new:
                        yield report
                    told, delay = "", 0.0
            except EmptyCorpusError:
                if not library.exists:
                    raise
            except (Llama2VecError, OSError) as error:
                if not is_watching:
                    raise
                if str(error) != told:
                    logger.warning("%s; the index stays as it is until a sync succeeds", printable_line(str(error)))
                seen, told = None, str(error)
                delay = min(max(2 * delay, _SHORTEST_WAIT_SECONDS), _LONGEST_DELAY_SECONDS)
            is_watching = True
            try:
                time.sleep(max(_SHORTEST_WAIT_SECONDS, _WALKS_PER_WAIT * took, delay))
            except KeyboardInterrupt:
                return

    def _model(self, old: Inventory | None) -> ModelSpec | None:
        if self.model is not None or old is None or old.model is None:
            return self.model
        return ModelSpec.of_store({"model": old.model}, self.index / STORE_FOLDER)

    def _is_for(self, old: Inventory, settings: SyncSettings) -> bool:
        return old.folder == str(self.folder.resolve()) and settings == _merged(old, SyncSettings())

    def _left_as_it_is(self, old: Inventory, settings: SyncSettings) -> SyncReport:
        """Return what the index holds; warn of files that changed since the last sync, and of readers that did."""
        found = walk(self.folder, settings.reading, without=own_paths(self.index), told=_patterns(old)).files
        before, now = {one.path: one for one in old.files}, {one.name: one for one in found}
        changed = sum(one.passages > 0 and one.path not in now for one in old.files)
        for name, file in now.items():
            known = before.get(name)
            changed += known is None or known.size != file.size or known.modified_ns not in (None, file.modified_ns)
        if changed:
            logger.warning(
                "%s changed since the last sync; an index with vectors is not brought up to date without the model: "
                "leave out --words",
                counted(changed, "file"),
            )
        if any(old.plan.get(name) != now for name, now in reading_plan(settings.reading).items()):
            logger.warning(
                "the files were read by another version of llama2vec, or of a package that reads them; an index with "
                "vectors is not brought up to date without the model: leave out --words"
            )
        return SyncReport(sum(one.passages for one in old.files), has_vectors=True, is_new=False, files=old.files)

    def _encoder(self, old: Inventory | None, spec: ModelSpec, model: Mapping[str, Any]) -> PassageEncoder:
        """Return the encoder, loaded at once where it may be another one than the index was made with."""
        if old is not None and old.contract_hash and old.model == model:
            contract = read_object(Path(spec.path) / CONTRACT_FILE) if spec.path else None
            if contract is None or contract.get("hash") == old.contract_hash:
                with suppress(StoreError):
                    store = VectorStore.open(self.index / STORE_FOLDER)
                    return _LoadedWhenNeeded(store, spec, self.model_settings)
        encoder = _loaded(spec, self.model_settings)
        if old is not None and old.contract_hash not in ("", encoder.contract_hash):
            self._warn_of_another(old, spec, model)
        return encoder

    def _warn_of_another(self, old: Inventory, spec: ModelSpec, model: Mapping[str, Any]) -> None:
        """Say that all passages are encoded again, and why."""
        if old.model in (None, model):
            logger.warning("%s: the model %s has changed, so all passages are encoded again", self.index, spec.title)
            return
        before = ModelSpec.of_store({"model": old.model}, self.index / STORE_FOLDER).title
        logger.warning(
            "%s: the model changes from %s to %s, so all passages are encoded again; to keep the vectors, interrupt "
            "and leave out --model",
            self.index, before, spec.title,
        )  # fmt: skip


class _LoadedWhenNeeded:
    """The encoder that made a store, loaded when the first text is new."""

    def __init__(self, store: VectorStore, spec: ModelSpec, settings: ModelSettings) -> None:
        self.dimension, self.contract_hash = store.dimension, store.contract_hash
        self._spec, self._settings = spec, settings
        self._encoder: PassageEncoder | None = None
        self._reading: Any = None  # Tokenizer and limit

    @property
    def dtype(self) -> str:
        """Number format in which the model computes or, before it is loaded, is going to."""
        if self._encoder is not None:
            return compute_dtype(self._encoder)
        from llama2vec.model.device import dtype_name

        return dtype_name(self._settings)

    def count_cut(self, passages: Sequence[Passage]) -> int:
        """Return how many passages the model does not read to their end; its tokenizer tells, without the weights."""
        from llama2vec.model.prompt import count_longer
        from llama2vec.model.tokens import passage_reading

        self._reading = self._reading or passage_reading(self._spec)
        tokenizer, most = self._reading
        return count_longer(tokenizer, [passage.full_text for passage in passages], most)

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        """See :class:`PassageEncoder`."""
        if self._encoder is None:
            self._encoder = _loaded(self._spec, self._settings)
            if self._encoder.contract_hash != self.contract_hash:
                raise StoreError(
                    f"{self._spec.title} is not the model that encoded the index: its contract is "
                    f"{self._encoder.contract_hash[:12]}, not {self.contract_hash[:12]}; restore it, or sync into "
                    "another index"
                )
        return self._encoder.encode_passages(passages)


def _source(folder: Path, settings: SyncSettings, model: ModelSpec | None, told: Collection[str]) -> FolderSource:
    """Return the folder, with passages measured in the model's own tokens, or in words without a model."""
    if model is None:
        splitter = Splitter.of_words(settings.passages)
    else:
        from llama2vec.model.tokens import model_splitter

        splitter = model_splitter(model, settings.passages)
    return FolderSource(folder, settings.reading, splitter, told)


def _require_device(device: str) -> None:
    """Refuse an unusable device before the words are indexed; ``auto`` always works, and needs no PyTorch here."""
    if device != "auto":
        from llama2vec.model.device import choose_device

        choose_device(device)


def _loaded(spec: ModelSpec, settings: ModelSettings) -> PassageEncoder:
    from llama2vec.model.encoder import Encoder

    return Encoder.from_spec(spec, settings)


def _patterns(old: Inventory | None) -> frozenset[str]:
    """Return the patterns of the last time."""
    reading = old.source.get("reading", {}) if old else {}
    return frozenset([*reading.get("include", ()), *reading.get("exclude", ())])


def _merged(old: Inventory | None, given: SyncSettings) -> SyncSettings:
    """Return the settings of the last time with those that were given now."""
    kept = {"index": old.settings, **old.source} if old else {}
    now = given.model_dump(exclude_unset=True, exclude={"language"})  # Its sections have it
    if given.index.vector_format != "float32":
        # A format that is given now takes the place of the other one.
        kept["index"] = {name: value for name, value in kept.get("index", {}).items() if name not in ("half", "int8")}
    parts = {name: {**kept.get(name, {}), **now.get(name, {})} for name in ("reading", "passages", "index")}
    return SyncSettings.model_validate(parts)
