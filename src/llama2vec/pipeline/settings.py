"""Settings of a run: every stage in one recipe."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Set
from typing import Annotated, Any

from pydantic import Field, model_validator

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings, Settings, StableHashSettings
from llama2vec.data.settings import CorpusPairSettings, PassageSettings, ReadingSettings
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.generate.settings import GenerateSettings
from llama2vec.mine.settings import MineSettings
from llama2vec.pipeline.naming import named_as_in_a_run
from llama2vec.retrieve.settings import EncodeSettings, IndexSettings
from llama2vec.score.settings import EvaluateSettings
from llama2vec.score.tasks import TASKS, find_task, locate
from llama2vec.settings import LanguageSettings, merged

logger = logging.getLogger(__name__)

_MADE_PAIRS = ("from_corpus", "generated")
RUN_STAGES = ("pairs", "adapt", "mine", "finetune", "encode", "index", "evaluate")


def _switched(data: Any, sections: Iterable[str]) -> Any:
    """Read ``section = true`` as an empty section and ``false`` as an absent one."""
    if not isinstance(data, dict):
        return data
    words: dict[bool, dict[str, Any] | None] = {True: {}, False: None}
    return {key: words[value] if key in sections and isinstance(value, bool) else value for key, value in data.items()}


class ExampleSource(Settings):
    """One source of labeled examples.

    Attributes:
        corpus: Passages to mine; "" = those of the BEIR folder, else the run's ``corpus``, else the examples' own.
    """

    source: Annotated[str, Field(min_length=1)]  # BEIR folder, JSONL file, MS MARCO triples, ``hf:dataset`` …
    split: str = "train"  # Split of a folder or hub dataset
    limit: Annotated[int, Field(ge=0)] = 0  # Most examples, spread evenly (of ``hf:`` the first ones); 0 = all
    corpus: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"source": data} if isinstance(data, str) else data


class PairsSettings(StableHashSettings):
    """Sources of the pairs of query and positive.

    Attributes:
        sources: Labeled examples; a name alone means a source with default settings.
    """

    added_later = frozenset({"generated"})

    sources: list[ExampleSource] = Field(default_factory=list)
    from_corpus: CorpusPairSettings | None = None  # Make pairs from the run's corpus, without labels
    generated: GenerateSettings | None = None  # Let an LLM write questions for the run's corpus
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # Sampling seed of the pairs from the corpus

    @model_validator(mode="before")
    @classmethod
    def _switch(cls, data: Any) -> Any:
        return _switched(data, _MADE_PAIRS)

    @model_validator(mode="after")
    def _something_to_read(self) -> PairsSettings:
        if not self.sources and not self.reads_corpus:
            raise ValueError("no source of pairs; name sources, or write from_corpus = true or generated = true")
        return self

    @property
    def reads_corpus(self) -> bool:
        """Whether pairs are made from the run's corpus."""
        return self.from_corpus is not None or self.generated is not None


class MiningStageSettings(MineSettings):
    """How a run mines, in addition to :class:`MineSettings`.

    Attributes:
        encoder: Also search with the newest encoder of the run. An LLM without adaptation or fine-tuning is skipped.
        rounds: Number of rounds of mining and fine-tuning. Each round mines with the encoder of the round before and
            fine-tunes it further.
    """

    encoder: bool = True
    rounds: Annotated[int, Field(ge=1)] = 1


class RunConfig(LanguageSettings):
    """All stages in one recipe. A stage without a section, or set to ``false``, is off; ``true`` runs it with defaults.

    ``[model]``, ``[prompts]`` and ``[encoder]`` apply to every stage; ``[adapt]`` and ``[finetune]`` may override
    parts of them, as in ``[finetune.model]``. ``[adapt.reading]`` may override ``[reading]``.

    Attributes:
        finetune: As in a fine-tuning recipe without ``data.sources``: it reads the output of ``mine`` or ``pairs``.
    """

    corpus: str = ""  # Passages for adaptation, pairs, mining and encoding, unless a stage names its own
    reading: ReadingSettings = ReadingSettings()  # How documents and the rows of ``corpus`` are read
    passages: PassageSettings = PassageSettings()  # How documents are split, except for adaptation
    model: ModelSettings = ModelSettings()  # The LLM to start from
    prompts: PromptSettings = PromptSettings()  # Wording of the prompts
    encoder: EncoderSettings = EncoderSettings()  # Lengths, pooling, pairing of prompts
    adapt: AdaptConfig | None = None  # As in an adaptation recipe; ``text.corpus`` takes precedence over ``corpus``
    pairs: PairsSettings | None = None  # Queries with positives
    mine: MiningStageSettings | None = None  # Hard negatives for the pairs
    finetune: FinetuneConfig | None = None
    encode: EncodeSettings | None = None  # Vectors of the corpus
    index: IndexSettings | None = None  # Index over the vectors
    evaluate: EvaluateSettings | None = None  # Scores of the models

    @property
    def words_language(self) -> str:
        """Language of BM25's words in an evaluation: its own, else that of the index."""
        if self.evaluate and "language" in self.evaluate.model_fields_set:
            return self.evaluate.language
        return self.index.language if self.index else "en"

    @property
    def trained_encoder(self) -> EncoderSettings:
        """How the encoders of the run read texts."""
        section = self.adapt or self.finetune
        return section.encoder if section else self.encoder

    @property
    def encoded_corpus(self) -> str:
        """The corpus that is encoded and indexed."""
        return (self.encode.corpus if self.encode else "") or self.corpus

    @model_validator(mode="before")
    @classmethod
    def _share(cls, data: Any) -> Any:
        """Put the shared sections under those of the stages."""
        data = _switched(data, RUN_STAGES)
        if isinstance(data, dict):
            shared = {name: data[name] for name in ("model", "prompts", "encoder") if isinstance(data.get(name), dict)}
            for stage in ("adapt", "finetune"):
                if isinstance(data.get(stage), dict):
                    data[stage] = merged(shared, data[stage])
            if isinstance(data.get("adapt"), dict) and isinstance(data.get("reading"), dict):
                data["adapt"] = merged({"reading": data["reading"]}, data["adapt"])
            if isinstance(data.get("pairs"), dict):
                data["pairs"] = _switched(data["pairs"], _MADE_PAIRS)
        return data

    @classmethod
    def below_language(cls, data: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        """Return ``own`` below every section that splits or counts words; where there is an index, it decides scoring.

        This is called after :meth:`_share`, because pydantic calls the validators of a subclass first.
        """
        below: dict[str, Any] = {"passages": own}
        is_on = {stage: isinstance(data.get(stage), dict) for stage in RUN_STAGES}
        if is_on["pairs"]:
            below["pairs"] = {name: own for name in _MADE_PAIRS if isinstance(data["pairs"].get(name), dict)}
        below |= {"adapt": {"text": own}} if is_on["adapt"] else {}
        pretext = data["finetune"].get("pretext") if is_on["finetune"] else None
        if isinstance(pretext, dict) and pretext.get("weight"):  # Without a weight, its other settings do nothing
            below["finetune"] = {"pretext": own}
        below |= {stage: own for stage in ("mine", "index") if is_on[stage]}
        if is_on["evaluate"] and not is_on["index"]:
            below["evaluate"] = own
        return below

    @model_validator(mode="after")
    def _stages_fit(self) -> RunConfig:
        if not any(getattr(self, stage) is not None for stage in RUN_STAGES):
            raise ValueError(f"no stage to run; write a section for at least one of {', '.join(RUN_STAGES)}")
        for stage, needed in (("mine", "pairs"), ("finetune", "pairs"), ("index", "encode")):
            if getattr(self, stage) is not None and getattr(self, needed) is None:
                raise ValueError(f"[{stage}] needs what [{needed}] makes; write a [{needed}] section too")
        if self.mine and self.mine.rounds > 1 and not self.finetune:
            raise ValueError(f"mine.rounds is {self.mine.rounds}, but no stage fine-tunes in between; add [finetune]")
        self._check_corpus()
        self._check_models()
        self._check_evaluation()
        return self

    def _check_evaluation(self) -> None:
        """Raise where ``evaluate`` contradicts the index."""
        if self.evaluate is None:
            return
        own, words = self.evaluate.language, self.index.language if self.index else ""
        if "language" in self.evaluate.model_fields_set and words and own != words:
            raise ValueError(
                f"evaluate.language is {own} and index.language is {words}: BM25 would be scored in another language "
                "than it searches; set index.language alone"
            )

    def _check_corpus(self) -> None:
        reads = {
            "adapt": self.adapt is not None and not self.adapt.text.corpus,
            "pairs": self.pairs is not None and self.pairs.reads_corpus,
            "encode": self.encode is not None and not self.encode.corpus,
        }
        for stage, needed in reads.items():
            if needed and not self.corpus:
                raise ValueError(f"corpus is empty and {stage} reads it; name a corpus in the recipe or with --corpus")

    def _check_models(self) -> None:
        for stage in ("adapt", "finetune"):
            section = getattr(self, stage)
            if section is not None and section.model.name != self.model.name:
                raise ValueError(f"{stage}.model.name: a run has one model; name it in [model]")
        if self.finetune is not None and (self.finetune.data.source_list or self.finetune.data.limit):
            raise ValueError("finetune.data: a run fine-tunes on what [pairs] reads; put sources and limit there")
        if self.finetune is not None and self.finetune.data.limited_to != "spread":
            raise ValueError(
                "finetune.data.limited_to: a run takes its rows in [pairs], spread over each source; drop it"
            )
        if self.finetune is not None and self.finetune.data.split != "train":
            raise ValueError(
                "finetune.data.split: a run fine-tunes on what [pairs] reads; set the split of each source there"
            )
        if self.adapt is not None and self.finetune is not None:
            _check_same_contract(self.adapt, self.finetune)
        missing = [name for name in (self.evaluate.systems if self.evaluate else []) if not self._makes(name)]
        if missing:
            raise ValueError(f"evaluate.systems: {missing[0]} is not a model of this run; add its stage or drop it")

    def idle(self, sets: Set[str]) -> str:
        """See :meth:`llama2vec.config.Settings.idle`."""
        own = {key.removeprefix("finetune.") for key in sets if key.startswith("finetune.")}
        found = self.finetune.idle(own) if self.finetune else ""
        return named_as_in_a_run("finetune", found)

    @classmethod
    def worded(cls, section: str, problem: str) -> str:
        """See :meth:`llama2vec.config.Settings.worded`."""
        return named_as_in_a_run(section, problem) if section in ("adapt", "finetune") else problem

    def _makes(self, system: str) -> bool:
        return {"adapted": self.adapt is not None, "finetuned": self.finetune is not None}.get(system, True)


def _check_same_contract(adapt: AdaptConfig, finetune: FinetuneConfig) -> None:
    """Raise if fine-tuning repeats a setting of the adapted encoder's contract with another value."""
    if "prompts" in finetune.model_fields_set and finetune.prompts != adapt.prompts:
        raise ValueError("finetune.prompts: fine-tuning keeps the wording of the adaptation; set it in [prompts]")
    for name in ("pooling", "layers", "query_max_tokens", "passage_max_tokens"):
        there, now = getattr(adapt.encoder, name), getattr(finetune.encoder, name)
        if name in finetune.encoder.model_fields_set and there != now:
            raise ValueError(
                f"finetune.encoder.{name} is {now!r} and the adapted encoder has {there!r}; write it in [encoder]"
            )


def warn_of_one_judge(config: RunConfig) -> None:
    """Warn where the queries that choose the weights are those that score them."""
    validation = config.finetune.validation if config.finetune else None
    if validation is None or config.evaluate is None or not validation.source:
        return
    chosen_by = os.path.realpath(validation.source), validation.source_split
    for task in map(find_task, config.evaluate.tasks):
        for one in [TASKS[name] for name in task.members] or [task]:
            if (os.path.realpath(locate(one, config.evaluate.data_root)), one.split) == chosen_by:
                logger.warning(
                    "evaluate.tasks: %s is finetune.validation.source too, and its queries choose the weights that "
                    "they score; name another split in finetune.validation.split", one.name,
                )  # fmt: skip


UNLABELED = (
    "adapt={}",
    "pairs.from_corpus={}",
    "finetune={}",
    "finetune.encoder.query_prompt=self",
    "finetune.contrastive.negatives=0",
    "encode={}",
    "index.bm25=true",
)
"""``llama2vec run --corpus CORPUS`` without a recipe, as ``--set`` would say it.

This scored best without labels (docs/results.md): both prompts SELF, pairs from the corpus, BM25 next to the vectors.
"""
