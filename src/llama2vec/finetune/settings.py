"""Settings of stage 2, fine-tuning."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llama2vec.config import (
    EncoderSettings,
    ModelSettings,
    PromptName,
    PromptSettings,
    Settings,
    StableHashSettings,
)
from llama2vec.data.corpus.spread import spread_mark
from llama2vec.data.examples.labeled import is_single_file
from llama2vec.data.settings import ReadingSettings, check_stop_words
from llama2vec.data.text.words import stop_words_identity
from llama2vec.languages import Language
from llama2vec.training.settings import OptimizerSettings, TrackingSettings


class ExamplesSettings(StableHashSettings):
    """The labeled examples for fine-tuning.

    Attributes:
        sources: BEIR folders, JSONL files, ``hf:dataset`` …; one name or a list.
        limited_to: Which examples a limit takes: ``spread`` evenly over the source, or the ``first`` ones. Of an
            ``hf:`` source it takes the first ones in either case.
        passage_max_tokens: Length limit of training passages; 0 = the encoder's. Shorter texts train faster, and the
            saved encoder keeps its own limit.
        homogeneous_batches: Fill each batch from one source; the leftovers of all sources share the last batches.
        streaming: Write the examples to the output folder once and read them from there, so that memory does not grow
            with them. They are shuffled by a buffer, thus in another order than in memory.
    """

    added_later = frozenset({"limited_to", "streaming"})

    sources: str | list[str] = Field(default_factory=list)
    split: str = "train"  # Split of BEIR folders and hub datasets
    limit: Annotated[int, Field(ge=0)] = 0  # Learn from at most this many examples of each source; 0 = all
    limited_to: Literal["spread", "first"] = "spread"
    query_max_tokens: Annotated[int, Field(ge=0)] = 0  # Length limit of training queries; 0 = the encoder's
    passage_max_tokens: Annotated[int, Field(ge=0)] = 0
    homogeneous_batches: bool = False
    streaming: bool = False

    @model_validator(mode="after")
    def _one_way_to_fill(self) -> ExamplesSettings:
        if self.streaming and self.homogeneous_batches:
            raise ValueError("homogeneous_batches needs all examples in memory; set streaming to false")
        return self

    @property
    def source_list(self) -> list[str]:
        """The sources as a list."""
        return [self.sources] if isinstance(self.sources, str) else list(self.sources)


class ContrastiveSettings(StableHashSettings):
    """The contrastive loss (InfoNCE) and its memory.

    Attributes:
        positives: Positives per query and epoch, drawn by (seed, epoch, row). Each of several is scored against the
            negatives only, and the loss is their mean.
        negatives: Hard negatives per query and epoch, drawn the same way. All other passages of the batch, on every
            process, are negatives too, except known answers (by id or equal text).
        missing_negatives: For queries with fewer negatives: ``fill`` = use the other passages of the batch, ``error`` =
            stop.
        distillation: What is learned from a teacher's scores (``pos_scores``, ``neg_scores``) of a query's own
            passages. ``kl`` = the KL divergence between the teacher's scores and the model's, each as a softmax.
            ``margin_mse`` = the squared error of the difference between each positive and each negative (MarginMSE,
            arXiv 2010.02666). The model's scores are cosines / ``temperature``. Queries without scores count 0.
        false_negatives: Which guide may take negatives for answers. A negative, in-batch or hard, that the guide scores
            above the query's best positive is left out of the loss (GISTEmbed, arXiv 2402.16829). ``none`` = no guide,
            ``self`` = the model's own vectors at this step, ``start`` = the model as it was before this training (one
            more pass over the texts, without gradients), ``teacher`` = ``pos_scores`` and ``neg_scores``, which judge a
            query's own hard negatives only.
        false_negative_margin: A negative is left out if it scores above the positive minus this. Below 0, it must
            exceed the positive by that much: -0.1 with ``self`` is what Qwen3-Embedding does. At 0, a guide that ranks
            poorly leaves out the very negatives that are to be learned.
        false_negative_scale: ``absolute`` = the margin is a difference of scores, ``relative`` = a share of the
            positive's score.
        dimensions: Further widths to train, so that a vector can be cut to them (Matryoshka, arXiv 2205.13147); the
            loss is the mean over them and the full width.
        micro_batch_tokens: Most cells (texts x longest text) of one pass through the model; 0 = 1,024 on a CPU, 16,384
            on a GPU.
        graph_tokens: Most cells whose activations are held at once. A batch that fits is read once; the excess of a
            larger one is read twice (gradient cache, arXiv 2101.06983), with the same gradients. 0 = a quarter of the
            memory, at least 2,048 cells, on a CPU, and 16,384 on a GPU; never less than a micro-batch.
    """

    added_later = frozenset({"false_negatives", "false_negative_margin", "false_negative_scale", "distillation"})

    temperature: Annotated[float, Field(gt=0)] = 0.02  # Divides the cosines; 0.01 in the authors' code
    positives: Annotated[int, Field(ge=1)] = 1
    negatives: Annotated[int, Field(ge=0)] = 1
    missing_negatives: Literal["fill", "error"] = "fill"
    weight: Annotated[float, Field(ge=0)] = 1.0  # Weight of InfoNCE
    distillation: Literal["kl", "margin_mse"] = "kl"
    distillation_weight: Annotated[float, Field(ge=0)] = 0.0  # Weight of the distillation loss
    distillation_temperature: Annotated[float, Field(gt=0)] = 1.0  # Divides the teacher's scores
    false_negatives: Literal["none", "self", "start", "teacher"] = "none"
    false_negative_margin: float = 0.0
    false_negative_scale: Literal["absolute", "relative"] = "absolute"
    dimensions: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    micro_batch_tokens: Annotated[int, Field(ge=0)] = 0
    graph_tokens: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _something_to_learn(self) -> ContrastiveSettings:
        if self.weight == 0 and self.distillation_weight == 0:
            raise ValueError(
                "weight and distillation_weight are both 0: there is nothing to learn; set one of them above 0"
            )
        return self

    @model_validator(mode="after")
    def _something_to_compare(self) -> ContrastiveSettings:
        if self.negatives:
            return self
        if self.distillation_weight and self.distillation == "margin_mse":
            raise ValueError(
                "distillation is margin_mse, which learns from hard negatives, and negatives is 0; raise it"
            )
        if self.distillation_weight and self.positives == 1:
            raise ValueError(
                "distillation_weight is set, but with negatives = 0 and positives = 1 a query has one passage, and its "
                "teacher's scores compare nothing; raise negatives"
            )
        if self.false_negatives == "teacher":
            raise ValueError("false_negatives is teacher, which judges hard negatives, and negatives is 0; raise it")
        return self

    def compared_by_teacher(self, positives: int, negatives: int) -> bool:
        """Whether a teacher's scores of so many positives and negatives of a query teach something."""
        drawn, hard = min(positives, self.positives), min(negatives, self.negatives)
        is_enough = hard if self.distillation == "margin_mse" else drawn + hard > 1
        return bool((self.distillation_weight and is_enough) or (self.false_negatives == "teacher" and hard))


class PretextSettings(Settings):
    """EBAE beside the contrastive loss, so that training on labels keeps what adaptation taught.

    Attributes:
        weight: Factor on the EBAE loss, which is added to the contrastive loss; 0 = none. Each text that SELF follows
            predicts its own words from the last layer's states at its slots, through the output head, whose weights
            this loss does not change. 0.1 kept sentence similarity and cost no retrieval (docs/lab-notes.md).
        stop_words: Words that need not be predicted, as in ``text.stop_words`` of an adaptation.
        token_weights: ``uniform``, or ``idf`` = each token's inverse document frequency in the training texts.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    language: Language = "en"  # ISO 639-1 code for stop words
    stop_words: Annotated[str, Field(min_length=1)] = "iso"
    token_weights: Literal["uniform", "idf"] = "idf"

    @model_validator(mode="after")
    def _has_stop_words(self) -> PretextSettings:
        check_stop_words(self.stop_words, self.language)
        return self


class ValidationSettings(StableHashSettings):
    """The held-out queries that validate during training (MRR@10, nDCG@10).

    Attributes:
        share: Share of the training examples to hold out; examples with the same positive stay together.
        extra_passages: Further passages to search, from the training examples or the BEIR corpus, in addition to the
            queries' positives and negatives.
        seed: Seed of the held-out queries and the further passages; None = ``optimizer.seed``. With this seed, the
            trainings of ``--seeds`` validate on the same queries.
    """

    added_later = frozenset({"seed"})

    source: str = ""  # Labeled examples or a BEIR folder; "" = hold out a share of the training examples
    split: str = "dev"  # Split of a folder or hub dataset; the test split is for the final score
    share: Annotated[float, Field(ge=0, lt=1)] = 0.02
    max_queries: Annotated[int, Field(ge=1)] = 100  # Most queries
    extra_passages: Annotated[int, Field(ge=0)] = 200
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    keep_best: bool = True  # Save the weights with the best nDCG@10 instead of the last ones

    @property
    def held_out_share(self) -> float:
        """The share of the training examples that is held out; 0 where ``source`` takes their place."""
        return 0.0 if self.source else self.share

    @property
    def source_split(self) -> str:
        """The split of ``source`` that is read; for a single file, which has no splits, ``train``."""
        return "train" if Path(self.source).is_file() else self.split


class FinetuneOptimizerSettings(OptimizerSettings):
    """Optimization in fine-tuning; settings not listed here are as in adaptation.

    Attributes:
        batch_size: Queries per step and process. More queries mean more negatives at the same memory.
        accumulation: Batches summed into one step; each has its own in-batch negatives, so raise batch_size instead.
    """

    steps: Annotated[int, Field(ge=0)] = 0  # Optimizer steps; 0 = as many as ``epochs`` take
    epochs: Annotated[float, Field(gt=0)] = 1.0  # Passes over the examples; may be a fraction
    batch_size: Annotated[int, Field(ge=1)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1


class FinetuneEncoderSettings(EncoderSettings):
    """:class:`EncoderSettings` with the paper's pairing of prompts."""

    query_prompt: PromptName = "next"  # Prompt that follows a query; NEXT as in the paper
    passage_prompt: PromptName = "self"  # Prompt that follows a passage


def _has_another_split(settings: ExamplesSettings | ValidationSettings) -> bool:
    return bool(settings.split != type(settings).model_fields["split"].default)


class FinetuneConfig(StableHashSettings):
    """A whole fine-tuning recipe (stage 2).

    A model with a contract keeps its prompts, lengths and pooling: a recipe may repeat but not change them. It may
    choose the pairing of prompts.
    """

    added_later = frozenset({"pretext", "reading"})

    model: ModelSettings = ModelSettings()
    prompts: PromptSettings = PromptSettings()
    data: ExamplesSettings = ExamplesSettings()
    reading: ReadingSettings = ReadingSettings()  # Names the fields of the rows of BEIR folders
    contrastive: ContrastiveSettings = ContrastiveSettings()
    pretext: PretextSettings = PretextSettings()
    validation: ValidationSettings = ValidationSettings()
    optimizer: FinetuneOptimizerSettings = FinetuneOptimizerSettings()
    encoder: FinetuneEncoderSettings = FinetuneEncoderSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _one_choice_of_weights(self) -> FinetuneConfig:
        if self.optimizer.average_last > 1 and self.validation.keep_best:
            raise ValueError(
                "optimizer.average_last and validation.keep_best both choose the weights to save; "
                "set validation.keep_best to false, or average_last to 1"
            )
        return self

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide the result."""
        found = self.model_dump(exclude={"tracking"})
        if "pretext" in found:
            found["pretext"]["stop_words"] = stop_words_identity(self.pretext.stop_words)
        if found["data"].pop("limited_to", "spread") == "spread":
            found["data"] |= spread_mark(self.data.limit, self.data.source_list)
        found.pop("reading", None)
        return found | ({"reading": self.reading.choices} if self.reading.choices else {})

    def idle(self, sets: Set[str]) -> str:
        """See :meth:`llama2vec.config.Settings.idle`. Defaults that a recipe repeats are not meant."""
        contrastive, validation, optimizer = self.contrastive, self.validation, self.optimizer
        if contrastive.false_negatives == "none":
            for name in ("false_negative_margin", "false_negative_scale"):
                if getattr(contrastive, name) != ContrastiveSettings.model_fields[name].default:
                    return (
                        f"contrastive.{name} needs a guide; set contrastive.false_negatives to self, start or teacher"
                    )
        # Set to 0 for this call, it switches off what a recipe says of it.
        if not self.pretext.weight and self.pretext != PretextSettings() and "pretext.weight" not in sets:
            return "pretext.weight is 0, so the other settings of pretext do nothing; set it above 0"
        if self.data.limited_to != "spread" and not self.data.limit:
            return "data.limited_to says which rows a limit takes, and data.limit is 0; set a limit or drop it"
        if "optimizer.epochs" in sets and optimizer.steps and "optimizer.steps" not in sets:
            steps = f"optimizer.steps is {optimizer.steps} and decides how long the training is"
            return f"optimizer.epochs: {steps}; set optimizer.steps=0 as well"
        if validation.source and validation.share not in (0.0, ValidationSettings.model_fields["share"].default):
            return "validation.share holds training examples out, and validation.source takes their place; drop one"
        given: dict[str, list[str]] = {}
        if "data.split" in sets and _has_another_split(self.data):
            given["data.split"] = self.data.source_list
        if "validation.split" in sets and _has_another_split(validation):
            given["validation.split"] = [validation.source]
        if "validation.split" in given and not validation.source:
            return "validation.split is that of validation.source, and none is named; drop it or name a source"
        for key, sources in given.items():
            if sources and all(map(is_single_file, sources)):
                return f"{key}: {sources[0]} is a file, which has no splits; drop it"
        return ""
