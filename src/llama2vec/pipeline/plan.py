"""Turn a recipe into the stages of a run: what each reads, where it writes, and what decides its result."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from os.path import normpath
from pathlib import Path
from typing import Any

from llama2vec.config import EncoderSettings
from llama2vec.data.corpus.passages import corpus_fingerprint
from llama2vec.data.corpus.reading import holds_documents
from llama2vec.data.corpus.sources import beir_file
from llama2vec.data.corpus.spread import spread_mark
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.examples.labeled import examples_fingerprint, named_fingerprint
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.text.words import stop_words_identity
from llama2vec.errors import ConfigError
from llama2vec.finetune.contract import check_contract
from llama2vec.integrations.pair_scorer import PairScorer
from llama2vec.manifest import digest
from llama2vec.model.source import resolve_model
from llama2vec.pipeline.naming import settings_named_as_in_a_run
from llama2vec.pipeline.settings import ExampleSource, RunConfig, warn_of_one_judge
from llama2vec.pipeline.systems import check_windows, hybrid_model, raw_encoder, scored_tasks, systems
from llama2vec.score.corpora import tasks_data
from llama2vec.score.tasks import find_task
from llama2vec.training.output import model_fingerprint

# Folder of each stage in the run's folder; further rounds append their number.
STAGE_FOLDERS = {
    "read": "corpus", "adapt": "adapted", "pairs": "pairs", "mine": "negatives", "finetune": "finetuned",
    "encode": "store", "index": "index", "evaluate": "report",
}  # fmt: skip
TOGETHER = ("adapt", "finetune", "encode")
"""Stages that several processes (torchrun) share; the first one alone runs the others, but all encode what is mined."""
CORPUS_PAIRS, GENERATED_PAIRS = "corpus.jsonl", "generated.jsonl"
_LOADING = {"dtype", "device", "attention"}


@dataclass(frozen=True, slots=True)
class Input:
    """Something that a stage reads."""

    name: str  # Its role in the stage: ``corpus``, ``model``, ``pairs`` …
    where: str  # Its source, or its folder in the run's folder
    stage: str = ""  # The stage that makes it; "" = it comes from outside the run
    fingerprint: str = ""  # Hash of an input from outside
    earlier: str = ""  # What an earlier version called that hash, where that is another one
    is_new: bool = False  # Records of earlier versions lack it

    @property
    def is_encoder(self) -> bool:
        """Whether this model brings its contract: a stage makes it, or it was saved as an encoder."""
        return bool(self.stage) or resolve_model(self.where).carries_contract


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of a run."""

    name: str  # ``adapt``, …; with its number in further rounds: ``mine-2``
    kind: str  # The name without the number
    folder: str  # Its output in the run's folder
    settings: Mapping[str, Any]  # What decides the result, apart from the inputs
    inputs: tuple[Input, ...]  # What it reads

    def find_input(self, name: str) -> Input | None:
        """Return an input by name, or None."""
        return next((found for found in self.inputs if found.name == name), None)

    def input(self, name: str) -> Input:
        """Return an input that every stage of this kind has."""
        return next(found for found in self.inputs if found.name == name)

    def input_fingerprints(self, made: Mapping[str, str | None]) -> dict[str, str | None]:
        """Return name → fingerprint, given those of finished stages; None for inputs that are yet to be made."""
        return {found.name: made.get(found.stage) if found.stage else found.fingerprint for found in self.inputs}


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The recipe, the run's folder, and the stages in the order in which they run."""

    config: RunConfig
    output: Path
    stages: tuple[PlannedStage, ...]
    inputs: SteadyInputs = field(default_factory=SteadyInputs)  # Corpora and examples from outside

    def folder(self, stage: PlannedStage) -> Path:
        """Return the output folder of a stage."""
        return self.output / stage.folder

    def path(self, found: Input) -> str:
        """Return the path or name of an input."""
        return str(self.output / found.where) if found.stage else found.where

    def between(self, first: str = "", last: str = "") -> tuple[PlannedStage, ...]:
        """Return the stages between two names; without a number, a name means its first or last round."""
        names = [stage.name for stage in self.stages]
        begin = self._place(first, "--from") if first else 0
        end = self._place(last, "--until", last=True) if last else len(names) - 1
        if begin > end:
            raise ConfigError(f"--from {first} comes after --until {last}; the stages are {', '.join(names)}")
        return self.stages[begin : end + 1]

    def _place(self, name: str, option: str, *, last: bool = False) -> int:
        # "mine" means every round, although it is also the name of the first.
        found = [place for place, stage in enumerate(self.stages) if name in (stage.kind, stage.name)]
        if not found:
            names = ", ".join(stage.name for stage in self.stages)
            raise ConfigError(f"{option} {name}: this run has no such stage; choose from {names}")
        return found[-1 if last else 0]


def plan_run(config: RunConfig, output: str | Path) -> RunPlan:
    """Plan a run: look up and hash every input from outside; write nothing.

    Raises:
        Llama2VecError: An input is missing or cannot be read.
    """
    planner = _Planner(config)
    return RunPlan(config, Path(output).resolve(), tuple(planner.stages()), planner.inputs)


class _Planner:
    """Adds one stage after another; ``self._model`` is always the newest encoder."""

    def __init__(self, config: RunConfig) -> None:
        self._config, self.inputs = config, SteadyInputs()
        self._base = Input("model", config.model.name, fingerprint=model_fingerprint(config.model.name))
        self._model = self._base
        self._stages: list[PlannedStage] = []
        self._read: dict[str, Input] = {}  # Of documents: their passages

    def stages(self) -> list[PlannedStage]:
        config = self._config
        if config.pairs:
            # Mining is the first to need pairs, but every row should be read before hours of training.
            settings = _without(config.pairs.model_dump(), "source", "corpus", "model")
            named = [
                one.source for one in config.pairs.sources if (own := fields_of(config, one.source)) and own.choices
            ]
            settings |= {"reading": config.reading.choices} if named else {}
            for source, one in zip(settings["sources"], config.pairs.sources, strict=True):
                source |= spread_mark(one.limit, [one.source])
            if config.pairs.from_corpus and config.pairs.from_corpus.limit:
                settings["from_corpus"]["passages"] = "spread over the corpus"  # Once, they were the first ones
            self._add("pairs", settings, self._pair_inputs())
        if config.adapt:
            with settings_named_as_in_a_run("adapt"):
                self._adapt()
        for number in range(1, (config.mine.rounds if config.mine else 1) + 1):
            if config.mine:
                self._mine(number)
            if config.finetune:
                with settings_named_as_in_a_run("finetune"):
                    self._finetune(number)
        if config.encode:
            self._encode()
        if config.index:
            self._add("index", config.index.model_dump(), [self._made("store", "encode")])
        if config.evaluate:
            self._evaluate()
        return self._stages

    def _add(self, kind: str, settings: Mapping[str, Any], inputs: list[Input], number: int = 1) -> None:
        suffix, read = f"-{number}" if number > 1 else "", tuple(inputs)
        self._stages.append(PlannedStage(f"{kind}{suffix}", kind, f"{STAGE_FOLDERS[kind]}{suffix}", settings, read))
        if kind in ("adapt", "finetune"):
            self._model = self._made("model", kind)

    def _made(self, name: str, kind: str) -> Input:
        """Return what the newest stage of a kind makes, as an input of that name."""
        stage = [stage for stage in self._stages if stage.kind == kind][-1]
        return Input(name, stage.folder, stage.name)

    def _corpus(self, source: str, name: str = "corpus", reading: ReadingSettings | None = None) -> Input:
        return Input(name, source, fingerprint=self.inputs.corpus(source, reading))

    def _passages(self, source: str, name: str = "corpus") -> Input:
        """Return a corpus as an input; what settings decide of it is read by a stage of its own, once."""
        config = self._config
        if not is_read_first(config, source):
            return self._corpus(source, name)
        if source not in self._read:
            fingerprint = self.inputs.corpus(source, config.reading)
            settings = {
                "reading": config.reading.model_dump(mode="json"), "passages": config.passages.model_dump(),
                "prompts": config.prompts.model_dump(), "passage_max_tokens": config.trained_encoder.passage_max_tokens,
            }  # fmt: skip
            inputs = [self._base, Input("corpus", source, fingerprint=fingerprint)]
            self._add("read", settings, inputs, len(self._read) + 1)
            self._read[source] = self._made("corpus", "read")
        return replace(self._read[source], name=name)

    def _adapt(self) -> None:
        assert self._config.adapt
        reading = self._config.adapt.reading
        settings = _without(self._config.adapt.model_dump(exclude={"reading", "tracking"}), "name", "corpus")
        text, source = self._config.adapt.text, adaptation_corpus(self._config)
        settings["text"] |= {"stop_words": stop_words_identity(text.stop_words), **spread_mark(text.limit, [source])}
        settings |= {"reading": reading.choices} if reading.choices else {}
        corpus = self._corpus(source, reading=reading)
        self._add("adapt", settings, [self._model, corpus])

    def _pair_inputs(self) -> list[Input]:
        pairs = self._config.pairs
        assert pairs
        inputs = [self._passages(self._config.corpus)] if pairs.reads_corpus else []
        if pairs.generated:
            name = writing_model(self._config)
            inputs.append(Input("writer", name, fingerprint=model_fingerprint(name)))
        for place, one in enumerate(pairs.sources):
            found = self.inputs.take(one.source, partial(examples_fingerprint, one.source, split=one.split))
            earlier = named_fingerprint(one.source, split=one.split)
            inputs.append(Input(f"pairs.sources.{place}", one.source, fingerprint=found, earlier=earlier))
        return inputs

    def _mine(self, number: int) -> None:
        config = self._config
        assert config.mine
        inputs = [self._made("pairs", "pairs")]
        corpora = mining_corpora(config).items()
        inputs += [self._passages(corpus, f"corpus of {name}") for name, corpus in corpora if corpus]
        settings = config.mine.model_dump(exclude={"rounds", "teacher"})
        if config.mine.teacher:
            inputs.append(
                Input("teacher", config.mine.teacher, fingerprint=PairScorer(config.mine.teacher).fingerprint)
            )
        if config.mine.encoder and self._model.is_encoder:
            inputs.append(self._model)
            settings["model"] = config.model.model_dump(include=_LOADING)
        elif not config.mine.bm25:
            raise ConfigError(
                "mine: needs an encoder or BM25: no stage makes an encoder and bm25 is off; add [adapt], or set "
                "mine.bm25 = true"
            )
        self._add("mine", settings, inputs, number)

    def _finetune(self, number: int) -> None:
        config = self._config
        assert config.finetune
        inputs = [self._made("examples", "mine" if config.mine else "pairs"), self._model]
        if config.mine and config.finetune.validation.held_out_share:
            # Each round may drop other pairs, so all of them draw the held-out queries from what none has dropped.
            inputs.insert(1, replace(self._made("pairs", "pairs"), is_new=True))
        if self._model.is_encoder and not self._model.stage:
            check_contract(config.finetune)
        validation = config.finetune.validation
        if validation.source:
            found = self.inputs.take(validation.source, partial(_validation_fingerprint, config))
            earlier = _validation_fingerprint(config, named_fingerprint)
            inputs.append(Input("validation", validation.source, fingerprint=found, earlier=earlier))
        decides = {name: value for name, value in config.finetune.deciding().items() if name != "reading"}
        settings = _without(decides, "name", "sources", "source")
        reading = validation_fields(config)
        settings |= {"reading": reading.choices} if validation.source and reading.choices else {}
        self._add("finetune", settings, inputs, number)

    def _encode(self) -> None:
        config = self._config
        assert config.encode
        settings = config.encode.model_dump(exclude={"corpus"})
        settings["model"] = config.model.model_dump(include=_LOADING)
        if not self._model.is_encoder:
            settings |= self._raw_reading(config.encoder)
        self._add("encode", settings, [self._model, self._passages(config.encoded_corpus)])

    def _raw_reading(self, encoder: EncoderSettings) -> dict[str, Any]:
        """Return how the LLM reads texts as it is; its number of layers where it is not whole."""
        layers = self._config.model.model_dump(include={"layers"})
        return {"prompts": self._config.prompts.model_dump(), "encoder": encoder.model_dump(), **layers}

    def _evaluate(self) -> None:
        config = self._config
        assert config.evaluate
        root, read_as = config.evaluate.data_root, config.evaluate.reading
        tasks = {name: find_task(name) for name in config.evaluate.tasks}
        inputs = [
            Input(
                task.name,
                name,
                fingerprint=digest([dict(data.fingerprints) for data in tasks_data([name], root, read_as)]),
            )
            for name, task in tasks.items()
        ]
        (twice, count), *_ = Counter(found.name for found in inputs).most_common(1)
        if count > 1:
            raise ConfigError(f"evaluate: two tasks are called {twice}; rename a folder or drop one")
        settings = _without(config.evaluate.model_dump(exclude={"reading"}), "tasks", "data_root")
        settings |= {"reading": reading} if (reading := config.evaluate.reading.choices) else {}
        settings |= {"systems": list(systems(config)), "language": config.words_language}
        settings["model"] = config.model.model_dump(include=_LOADING)
        if "raw" in settings["systems"] or ("hybrid" in settings["systems"] and hybrid_model(config) == "raw"):
            settings |= self._raw_reading(raw_encoder(config))
        warn_of_one_judge(config)
        check_windows(config)
        for system in settings["systems"]:
            scored_tasks(config.evaluate, system)
            if system != "bm25":
                inputs.append(self._system(system))
        self._add("evaluate", settings, inputs)

    def _system(self, system: str) -> Input:
        model = hybrid_model(self._config) if system == "hybrid" else system
        if model == "raw":
            name = self._config.model.name
            return Input(system, name, fingerprint=model_fingerprint(name))
        return self._made(system, {"adapted": "adapt", "finetuned": "finetune"}[model])


def is_read_first(config: RunConfig, source: str) -> bool:
    """Tell whether a stage reads a corpus for the others: documents, rows to split, rows with fields of other names."""
    named = config.reading.names_fields and source in (config.corpus, config.encoded_corpus)
    return named or config.passages.split == "always" or holds_documents(source, config.reading)


def fields_of(config: RunConfig, source: str) -> ReadingSettings | None:
    """Return what names the fields of labeled rows: the run's own settings where they are those of its corpus."""
    is_corpus = bool(config.corpus) and normpath(source) == normpath(config.corpus)
    return config.reading if is_corpus and config.reading.names_fields else None


def validation_fields(config: RunConfig) -> ReadingSettings:
    """Return what names the fields of ``finetune.validation.source``."""
    assert config.finetune
    own = config.finetune.reading
    return own if own.choices else fields_of(config, config.finetune.validation.source) or own


def adaptation_corpus(config: RunConfig) -> str:
    """Return the corpus that adaptation reads."""
    return (config.adapt.text.corpus if config.adapt else "") or config.corpus


def pair_files(config: RunConfig) -> dict[str, ExampleSource | None]:
    """Return the name of each file of pairs → its labeled source, or None for pairs made from the corpus.

    Each source has its own file because passage ids are unique only within their source.
    """
    assert config.pairs
    files: dict[str, ExampleSource | None] = {}
    for place, source in enumerate(config.pairs.sources, start=1):
        stem = re.sub(r"\W+", "-", Path(source.source).name.partition(".")[0]).strip("-") or "pairs"
        files[f"{place:02d}-{stem}.jsonl"] = source
    made = {CORPUS_PAIRS: config.pairs.from_corpus, GENERATED_PAIRS: config.pairs.generated}
    return files | {name: None for name, settings in made.items() if settings}


def writing_model(config: RunConfig) -> str:
    """Return the LLM that writes questions; a ConfigError if that is an encoder, which no longer writes."""
    assert config.pairs
    assert config.pairs.generated
    name = config.pairs.generated.model or config.model.name
    if resolve_model(name).carries_contract:
        raise ConfigError(
            f"pairs.generated: {name} is an encoder and cannot write; name an LLM in pairs.generated.model"
        )
    return name


def mining_corpora(config: RunConfig) -> dict[str, str]:
    """Return the name of each file of pairs → the corpus to mine; "" = the passages of the examples."""
    found: dict[str, str] = {}
    for name, source in pair_files(config).items():
        own = source.source if source and beir_file(source.source, "corpus") else ""
        found[name] = (source.corpus if source else "") or own or config.corpus
    return found


def made_file(folder: Path, name: str) -> Path:
    """Return a file of pairs that a stage has made; one of a source that has been renamed since has the former name."""
    made = folder / name
    number = name.partition("-")[0]
    former = [] if made.exists() else sorted(folder.glob(f"{number}-*.jsonl"))
    return former[0] if former else made


def _validation_fingerprint(config: RunConfig, fingerprint: Callable[..., str] = examples_fingerprint) -> str:
    assert config.finetune
    validation = config.finetune.validation
    found = fingerprint(validation.source, split=validation.source_split)
    return digest([found, corpus_fingerprint(validation.source)]) if beir_file(validation.source, "corpus") else found


def _without(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """Drop keys at every depth: the content of an input decides a result, not its path."""

    def kept(value: Any) -> Any:
        if isinstance(value, list):
            return [kept(item) for item in value]
        return _without(value, *names) if isinstance(value, dict) else value

    return {key: kept(value) for key, value in settings.items() if key not in names}
