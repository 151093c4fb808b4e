"""Settings as frozen models: TOML in, ``--set key=value`` on top, a hint for every misspelt key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from llama2vec.errors import ConfigError

PromptName = Literal["self", "next"]


def check_language(code: str) -> str:
    """Return a language's code.

    Raises:
        ValueError: It does not look like one.
    """
    if not re.fullmatch("[a-z]{2,3}", code):
        raise ValueError(f"{code!r} is no ISO 639 code; write en, de, zh or the like")
    return code


Language = Annotated[str, AfterValidator(check_language)]
"""ISO 639 code."""


class Settings(BaseModel):
    """Base of every settings model: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSettings(Settings):
    """The wording that turns a text into an embedding prompt (Llama2Vec, arXiv 2312.15503).

    Attributes:
        recipe: Where the wording comes from; a name for people.
        prefix: Text in front of T.
        self_prompt: Text behind T that asks for T itself (EBAE).
        next_prompt: Text behind T that asks for what follows T (EBAR).
        slots: Number of new slot tokens per prompt; 0 means that the tokenizer's EOS is the one slot.
        begin: ``auto`` = what the tokenizer itself puts in front of a text, ``bos`` = always its BOS (EOS where it
            has none), ``none`` = nothing.
    """

    recipe: str = "paper"
    prefix: str = ""
    self_prompt: str = "\nThe original sentence: "
    next_prompt: str = "\nThe next sentence: "
    slots: Annotated[int, Field(ge=0, le=64)] = 0
    begin: Literal["auto", "bos", "none"] = "auto"


PROMPT_RECIPES: dict[str, PromptSettings] = {
    "paper": PromptSettings(),
    "released": PromptSettings(
        recipe="released",
        prefix='"',
        self_prompt='", summarize the above passage within eight words: ',
        next_prompt='", predict the following passage within eight words: ',
        slots=8,
    ),
}
"""The two published wordings: ``paper`` (ACL 2024 text) and ``released`` (the authors' code and checkpoints)."""


class LoraSettings(Settings):
    """Low-rank adapters on the linear projections (peft).

    Attributes:
        rank: Width of the adapters; 0 trains every weight instead.
        alpha: The update is scaled by alpha / rank.
        dropout: Dropout in front of the adapters.
        targets: ``all-linear`` or the names of the projections.
        depth: Share of the layers, from the top, that get adapters. Below them nothing is trained, so the backward
            pass ends there: 0.5 saves a quarter of the step and half of the activations' memory.
    """

    rank: Annotated[int, Field(ge=0)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | list[str] = "all-linear"
    depth: Annotated[float, Field(gt=0, le=1)] = 1.0


class ModelSettings(Settings):
    """Which backbone, and how it is loaded.

    Attributes:
        name: Hub id, local folder, GGUF file, or ``smollm2-135m``.
        dtype: ``auto`` = bfloat16 where the hardware multiplies it natively, else float32.
        attention: Attention kernel; ``flash_attention_2`` and ``flex_attention`` are for encoding only.
        device: ``auto`` = a GPU where there is one.
        lora: Adapters; rank 0 = full fine-tuning.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
    """

    name: str = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    device: str = "auto"
    lora: LoraSettings = LoraSettings()
    gradient_checkpointing: bool = False


class TextSettings(Settings):
    """Which plain text is read and how it is cut into pairs (T, following U).

    Attributes:
        corpus: BEIR folder, JSONL, TSV, folder of .txt/.md, ``hf:dataset`` or ``ir:dataset``.
        language: ISO 639-1 code for sentence ends and stop words.
        min_words: Shortest T and U; shorter rests are joined to their neighbour.
        max_words: Longest T and U. Each piece's length is drawn between the two, so that the model meets
            texts as short as queries and as long as passages; equal numbers switch this off.
        max_tokens: Longest T in tokens; prompts come on top.
        held_out: Share of the documents kept for the validation loss.
        limit: Read at most this many passages; 0 = all.
    """

    corpus: str = ""
    language: Language = "en"
    min_words: Annotated[int, Field(ge=1)] = 8
    max_words: Annotated[int, Field(ge=1)] = 64
    max_tokens: Annotated[int, Field(ge=4)] = 128
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.02
    limit: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _order(self) -> TextSettings:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is larger than max_words ({self.max_words})")
        return self


class PairShares(Settings):
    """How often a passage gives a pair of each kind: 0 = never, 1 = wherever it can.

    Attributes:
        title: Title → text.
        first_sentence: First sentence → the rest.
        halves: One half → the other, cut at the sentence end nearest to the middle; which one asks is drawn.
        neighbours: A passage → the one that follows it in the same document.
        crop: A few neighbouring words → their passage (inverse cloze task, arXiv 1906.00300; cropping,
            arXiv 2112.09118).
    """

    title: Annotated[float, Field(ge=0, le=1)] = 1.0
    first_sentence: Annotated[float, Field(ge=0, le=1)] = 1.0
    halves: Annotated[float, Field(ge=0, le=1)] = 1.0
    neighbours: Annotated[float, Field(ge=0, le=1)] = 0.0
    crop: Annotated[float, Field(ge=0, le=1)] = 1.0


class CorpusPairSettings(Settings):
    """How an unlabelled corpus becomes pairs of query and positive.

    Attributes:
        kinds: Share of the passages that give a pair of each kind.
        language: ISO 639-1 code for sentence ends.
        query_min_words: Shortest query but for titles; a shorter first sentence takes the next one along.
        query_max_words: Longest query; what is behind it is left out.
        crop_max_words: Longest crop; its length is drawn between ``query_min_words`` and this.
        passage_min_words: Shortest positive without its title; what is shorter gives no pair.
        keep_query_in_passage: Share of the crops whose positive keeps the words that were cropped (0.1 in
            arXiv 1906.00300): they teach that equal words count, the others that they are not all.
        limit: Read at most this many passages; 0 = all.
    """

    kinds: PairShares = PairShares()
    language: Language = "en"
    query_min_words: Annotated[int, Field(ge=1)] = 3
    query_max_words: Annotated[int, Field(ge=1)] = 64
    crop_max_words: Annotated[int, Field(ge=1)] = 12
    passage_min_words: Annotated[int, Field(ge=1)] = 8
    keep_query_in_passage: Annotated[float, Field(ge=0, le=1)] = 0.1
    limit: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _possible(self) -> CorpusPairSettings:
        if not self.query_min_words <= self.crop_max_words <= self.query_max_words:
            raise ValueError(
                f"query_min_words ({self.query_min_words}), crop_max_words ({self.crop_max_words}) and "
                f"query_max_words ({self.query_max_words}) must not fall"
            )
        if not any(self.kinds.model_dump().values()):
            raise ValueError("the share of every kind is 0: there is no pair to make")
        return self


class ObjectiveSettings(Settings):
    """What the embedding must predict.

    Attributes:
        self_weight: Weight of EBAE; 0 switches it off.
        next_weight: Weight of EBAR; 0 switches it off.
        language_model_weight: Weight of the ordinary next-token loss on T (1 in the authors' code, 0 in the paper).
        pretext_weight: Factor on the mean of EBAE and EBAR (0.1 in the authors' code).
        stop_words: Leave stop words and punctuation out of the targets, where the language has a list.
        token_weights: ``uniform``, or ``idf`` = a token's weight is its inverse document frequency in the corpus.
        micro_batch_tokens: Most cells (texts x longest sequence) that one pass through the model reads; a batch of more
            is read in pieces and gives the same gradients in the memory of one piece. 0 = 2,048 on a CPU, whole batches
            on a GPU; under several processes a batch is always read whole.
    """

    self_weight: Annotated[float, Field(ge=0)] = 1.0
    next_weight: Annotated[float, Field(ge=0)] = 1.0
    language_model_weight: Annotated[float, Field(ge=0)] = 0.0
    pretext_weight: Annotated[float, Field(gt=0)] = 1.0
    stop_words: bool = True
    token_weights: Literal["uniform", "idf"] = "idf"
    micro_batch_tokens: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _something_to_learn(self) -> ObjectiveSettings:
        if self.self_weight == 0 and self.next_weight == 0:
            raise ValueError("self_weight and next_weight are both 0: there is nothing to learn")
        return self


class OptimiserSettings(Settings):
    """How the weights move (transformers.Trainer underneath).

    Attributes:
        steps: Optimiser steps. The default is what SmolLM2-135M needs (docs/results.md); the paper takes 10,000 on 7B.
        batch_size: Examples a step and process.
        accumulation: Micro-batches summed into one step.
        learning_rate: Peak of the schedule. The default suits small models under LoRA; take 1e-4 to 3e-4 for billions
            of parameters, 1e-5 for full fine-tuning.
        schedule: Shape after the warm-up.
        warmup: Share of the steps in which the rate rises from 0.
        weight_decay: AdamW's.
        max_grad_norm: Gradients are clipped to this norm.
        seed: Of weights, order and dropout.
        log_every: Steps between log lines; a checkpoint brings one too.
        validate_every: Steps between validation losses; 0 = at the end only.
        save_every: Steps between checkpoints.
        keep_checkpoints: Older ones are deleted.
        workers: Processes that prepare batches; 0 = none.
    """

    steps: Annotated[int, Field(ge=1)] = 32
    batch_size: Annotated[int, Field(ge=1)] = 16
    accumulation: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: int = 0
    log_every: Annotated[int, Field(ge=1)] = 5
    validate_every: Annotated[int, Field(ge=0)] = 50
    save_every: Annotated[int, Field(ge=1)] = 50
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    workers: Annotated[int, Field(ge=0)] = 0


class EncoderSettings(Settings):
    """How the finished model embeds texts; part of the saved contract.

    Attributes:
        query_prompt: Prompt behind a query.
        passage_prompt: Prompt behind a passage.
        query_max_tokens: Longest query in tokens, prompts on top.
        passage_max_tokens: Longest passage in tokens, prompts on top.
        pooling: ``slots`` = mean of the hidden states at the slots; ``mean`` = mean over the text's tokens without any
            prompt (a baseline for models that were not adapted).
        layers: A vector is the mean of what the last so many layers give, each at unit length. 1 = the last layer
            alone, as published; it is the one that must speak the vocabulary, and those below it say more.
    """

    query_prompt: PromptName = "self"
    passage_prompt: PromptName = "self"
    query_max_tokens: Annotated[int, Field(ge=1)] = 128
    passage_max_tokens: Annotated[int, Field(ge=1)] = 512
    pooling: Literal["slots", "mean"] = "slots"
    layers: Annotated[int, Field(ge=1)] = 1


class AdaptEncoderSettings(EncoderSettings):
    """As :class:`EncoderSettings`, with what serves an adapted model best (docs/results.md).

    Attributes:
        layers: As in :class:`EncoderSettings`, but 8; a model with fewer gives all it has.
    """

    layers: Annotated[int, Field(ge=1)] = 8


class CommonDirectionsSettings(Settings):
    """Directions that all vectors share, learnt from the corpus at the end and taken away ("all but the top").

    Attributes:
        count: Principal components to take away beside the mean; -1 = leave the vectors as they are, which is best
            where a vector is the mean of several layers.
        sentences: Sentences of the corpus that they are learnt from.
    """

    count: Annotated[int, Field(ge=-1)] = -1
    sentences: Annotated[int, Field(ge=2)] = 400


class AdaptConfig(Settings):
    """A whole adaptation recipe (stage 1)."""

    model: ModelSettings = ModelSettings()
    prompts: PromptSettings = PromptSettings()
    text: TextSettings = TextSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    encoder: AdaptEncoderSettings = AdaptEncoderSettings()
    common_directions: CommonDirectionsSettings = CommonDirectionsSettings()


class MineSettings(Settings):
    """Which passages become hard negatives.

    Attributes:
        bm25: Search with BM25, with or without a model beside it.
        language: Of BM25's stop words and stemmer, as ISO 639 has it.
        negatives: Negatives per query, those that are kept included.
        first_rank: First rank of the window, counted from 1 in each searcher's own ranking. What any searcher ranks
            above it is left out: the top is where unlabelled answers stand.
        last_rank: Last rank of the window (200 in the paper).
        choose: ``sample`` draws evenly from what the filters leave of the window, ``top`` takes the best ranked.
        seed: Of the draw; together with the query and the passage's id it decides, whatever the order.
        max_share_of_positive: Drop candidates that score above this share of the positive's score (NV-Retriever,
            arXiv 2407.15831, finds 0.95 best); 0 = off.
        margin: Drop candidates that score above the positive's score less this; 0 = off.
        near_duplicate: Drop candidates that share this much of the shorter text's word 5-grams with a positive;
            0 = off.
        keep_existing: Keep the negatives that the examples bring along; else they are replaced.
        write_scores: Write the scores of positives and negatives, for distillation.
        short: Queries that get fewer negatives than asked: ``keep`` them as they are, ``drop`` them, or ``error``.
        report_examples: Examples that the report shows for each reason.
    """

    bm25: bool = True
    language: Language = "en"
    negatives: Annotated[int, Field(ge=1)] = 7
    first_rank: Annotated[int, Field(ge=1)] = 1
    last_rank: Annotated[int, Field(ge=1)] = 200
    choose: Literal["sample", "top"] = "sample"
    seed: int = 0
    max_share_of_positive: Annotated[float, Field(ge=0, le=1)] = 0.95
    margin: Annotated[float, Field(ge=0)] = 0.0
    near_duplicate: Annotated[float, Field(ge=0, le=1)] = 0.5
    keep_existing: bool = False
    write_scores: bool = False
    short: Literal["keep", "drop", "error"] = "keep"
    report_examples: Annotated[int, Field(ge=0)] = 5

    @model_validator(mode="after")
    def _window(self) -> MineSettings:
        if self.first_rank > self.last_rank:
            raise ValueError(f"first_rank ({self.first_rank}) is behind last_rank ({self.last_rank})")
        return self


class MineConfig(Settings):
    """A whole mining recipe."""

    mine: MineSettings = MineSettings()


class ExamplesSettings(Settings):
    """Which labelled examples fine-tuning reads.

    Attributes:
        sources: BEIR folders, JSONL files, ``hf:dataset`` …; one name or a list.
        split: Split of BEIR folders and hub datasets.
        limit: Read at most this many examples of each source; 0 = all.
        query_max_tokens: Cut training queries here; 0 = where the encoder cuts them.
        passage_max_tokens: Cut training passages here; 0 = where the encoder cuts them. Shorter is faster, and the
            encoder still reads its own length afterwards.
        homogeneous_batches: Fill each batch from one source; what is left of the sources shares the last batches.
    """

    sources: str | list[str] = []
    split: str = "train"
    limit: Annotated[int, Field(ge=0)] = 0
    query_max_tokens: Annotated[int, Field(ge=0)] = 0
    passage_max_tokens: Annotated[int, Field(ge=0)] = 0
    homogeneous_batches: bool = False

    @property
    def source_list(self) -> list[str]:
        """The sources as a list."""
        return [self.sources] if isinstance(self.sources, str) else list(self.sources)


class ContrastiveSettings(Settings):
    """The contrastive loss (InfoNCE), and how its batches fit into memory.

    Attributes:
        temperature: Cosines are divided by it; 0.01 in the authors' code.
        positives: Positives per query and epoch, drawn by (seed, epoch, row). With several, each is scored against
            the negatives alone and the loss is their mean.
        negatives: Hard negatives per query and epoch, drawn the same way. Every passage of the batch, on every
            process, is a negative beside them, unless it is known to be an answer (by id or equal text).
        missing_negatives: Queries with fewer negatives: ``fill`` = the rest of the batch must do, ``error`` = stop.
        weight: Of InfoNCE.
        distillation_weight: Of the KL divergence between the teacher's scores (``pos_scores``, ``neg_scores``) and
            the model's, each as a softmax over the query's own passages; queries without scores count 0.
        distillation_temperature: The teacher's scores are divided by it.
        dimensions: Widths at which a vector's front part must serve alone (Matryoshka, arXiv 2205.13147); the loss
            is the mean over them and the whole width.
        micro_batch_tokens: Most cells (texts x longest text) that one pass through the model reads; 0 = what suits
            the device: 1,024 on a CPU, 16,384 on a GPU.
        graph_tokens: Most cells whose activations are held at once. A batch that fits is read once; of a larger one
            (gradient cache, arXiv 2101.06983) the rest is read twice, and the gradients stay the same. 0 = 2,048 on
            a CPU, 16,384 on a GPU; never less than a micro-batch.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.02
    positives: Annotated[int, Field(ge=1)] = 1
    negatives: Annotated[int, Field(ge=0)] = 1
    missing_negatives: Literal["fill", "error"] = "fill"
    weight: Annotated[float, Field(ge=0)] = 1.0
    distillation_weight: Annotated[float, Field(ge=0)] = 0.0
    distillation_temperature: Annotated[float, Field(gt=0)] = 1.0
    dimensions: list[Annotated[int, Field(ge=1)]] = []
    micro_batch_tokens: Annotated[int, Field(ge=0)] = 0
    graph_tokens: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _something_to_learn(self) -> ContrastiveSettings:
        if self.weight == 0 and self.distillation_weight == 0:
            raise ValueError("weight and distillation_weight are both 0: there is nothing to learn")
        return self


class ValidationSettings(Settings):
    """The held-out queries whose MRR@10 and nDCG@10 are followed during training.

    Attributes:
        source: Labelled examples or a BEIR folder; "" = hold out a share of the training examples.
        split: Split of a folder or hub dataset.
        share: Share of the training examples that is held out; examples with the same positive stay together.
        max_queries: Most queries; drawn from the seed.
        extra_passages: Passages that are searched beside the queries' positives and negatives: of the training
            examples, or of the BEIR corpus.
        keep_best: End with the weights of the best nDCG@10, not the last ones.
    """

    source: str = ""
    split: str = "test"
    share: Annotated[float, Field(ge=0, lt=1)] = 0.02
    max_queries: Annotated[int, Field(ge=1)] = 100
    extra_passages: Annotated[int, Field(ge=0)] = 200
    keep_best: bool = True


class FinetuneOptimiserSettings(OptimiserSettings):
    """How the weights move in fine-tuning; what is not named here is as in adaptation.

    Attributes:
        steps: Optimiser steps; 0 = as many as ``epochs`` take.
        epochs: Passes over the examples; fractions are fine.
        batch_size: Queries a step and process. More means more negatives, and memory does not grow.
        accumulation: Batches summed into one step; each has its own in-batch negatives, so raise batch_size instead.
    """

    steps: Annotated[int, Field(ge=0)] = 0
    epochs: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Annotated[int, Field(ge=1)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1


class FinetuneEncoderSettings(EncoderSettings):
    """As :class:`EncoderSettings`, but a query asks for what follows it and a passage for itself.

    Attributes:
        query_prompt: NEXT by default: which passage would follow this query?
        passage_prompt: SELF by default.
    """

    query_prompt: PromptName = "next"
    passage_prompt: PromptName = "self"


class FinetuneConfig(Settings):
    """A whole fine-tuning recipe (stage 2).

    A model that carries an encoding contract brings its prompts, lengths and pooling along: a recipe may repeat them
    but not change them. The pairing of prompts is the recipe's own choice.
    """

    model: ModelSettings = ModelSettings()
    prompts: PromptSettings = PromptSettings()
    data: ExamplesSettings = ExamplesSettings()
    contrastive: ContrastiveSettings = ContrastiveSettings()
    validation: ValidationSettings = ValidationSettings()
    optimiser: FinetuneOptimiserSettings = FinetuneOptimiserSettings()
    encoder: FinetuneEncoderSettings = FinetuneEncoderSettings()


class ExampleSource(Settings):
    """One source of labelled examples.

    Attributes:
        source: BEIR folder, JSONL file, MS MARCO triples, ``hf:dataset`` …
        split: Split of a folder or hub dataset.
        limit: Read at most this many examples; 0 = all.
        corpus: Passages to mine from; "" = the BEIR folder's own, else the run's ``corpus``, else the examples' own.
    """

    source: Annotated[str, Field(min_length=1)]
    split: str = "train"
    limit: Annotated[int, Field(ge=0)] = 0
    corpus: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"source": data} if isinstance(data, str) else data


class PairsSettings(Settings):
    """Where the pairs of query and positive come from.

    Attributes:
        sources: Labelled examples; a name alone stands for a source with its defaults.
        from_corpus: Pairs that the run's corpus gives by itself, without a label.
        seed: Of the pairs from the corpus.
    """

    sources: list[ExampleSource] = []
    from_corpus: CorpusPairSettings | None = None
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _switch(cls, data: Any) -> Any:
        return _switched(data, ("from_corpus",))

    @model_validator(mode="after")
    def _something_to_read(self) -> PairsSettings:
        if not self.sources and self.from_corpus is None:
            raise ValueError("there are no pairs; name sources, or write from_corpus = true")
        return self


class MiningStageSettings(MineSettings):
    """How a run mines; what is not named here is as in :class:`MineSettings`.

    Attributes:
        encoder: Search with the newest encoder of the run, too. A raw LLM, neither adapted nor fine-tuned, is no
            retriever and is not asked.
        rounds: Mine and fine-tune this often. Each further round mines with the encoder that the round before made,
            and fine-tuning goes on from it.
    """

    encoder: bool = True
    rounds: Annotated[int, Field(ge=1)] = 1


class EncodeSettings(Settings):
    """How the corpus is encoded into a vector store.

    Attributes:
        corpus: Passages; "" = the run's ``corpus``.
        shard_size: Passages per shard; a killed run loses at most one shard.
        half: Store vectors as float16.
    """

    corpus: str = ""
    shard_size: Annotated[int, Field(ge=1)] = 2048
    half: bool = False


class IndexSettings(Settings):
    """The index over the store.

    Attributes:
        kind: ``exact`` compares with every vector; ``faiss-hnsw`` and ``faiss-ivfpq`` are approximate.
        bm25: Add BM25 over the same texts, so that search is hybrid.
        sparse: Add the words of the embeddings; reads the texts with the model once more.
        language: Of stop words and stemmer, as ISO 639 has it.
    """

    kind: Literal["exact", "faiss-flat", "faiss-hnsw", "faiss-ivfpq"] = "exact"
    bm25: bool = False
    sparse: bool = False
    language: Language = "en"


class ServeSettings(Settings):
    """Limits of the HTTP service and how it batches.

    Attributes:
        max_batch: Most texts that the model reads at once; 1 = no batching.
        max_batch_tokens: Most tokens of such a batch; 0 = what suits the encoder's device. One text may be longer.
        max_wait_ms: Time that an idle model waits for more texts after the first.
        max_waiting: Most texts that may wait or be in work; beyond it requests get 503.
        max_body_bytes: Largest request body.
        max_texts: Most texts of a request.
        max_characters: Longest text of a request; the model reads what its contract allows and cuts the rest.
        max_depth: Most passages of an answer.
        timeout_seconds: Longest time from a request's first byte to its answer.
        grace_seconds: Time that requests in flight get when the service is told to stop.
    """

    max_batch: Annotated[int, Field(ge=1)] = 64
    max_batch_tokens: Annotated[int, Field(ge=0)] = 0
    max_wait_ms: Annotated[float, Field(ge=0, le=10_000)] = 5.0
    max_waiting: Annotated[int, Field(ge=1)] = 2048
    max_body_bytes: Annotated[int, Field(ge=1)] = 4 << 20
    max_texts: Annotated[int, Field(ge=1)] = 256
    max_characters: Annotated[int, Field(ge=1)] = 65_536
    max_depth: Annotated[int, Field(ge=1)] = 100
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    grace_seconds: Annotated[float, Field(ge=0)] = 30.0

    @model_validator(mode="after")
    def _one_request_fits(self) -> ServeSettings:
        if self.max_waiting < self.max_texts:
            raise ValueError(
                f"max_waiting ({self.max_waiting}) is smaller than max_texts ({self.max_texts}): "
                "the largest request would never be taken"
            )
        return self


class RetrievalTask(Settings):
    """A BEIR folder and which of its judgements count; a name alone stands for its ``test`` split."""

    folder: Annotated[str, Field(min_length=1)]
    split: str = "test"

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"folder": data} if isinstance(data, str) else data


SystemName = Literal["bm25", "raw", "adapted", "finetuned", "hybrid"]


class EvaluateSettings(Settings):
    """What the models of a run are scored on.

    Attributes:
        data: BEIR folders.
        sts: Files of sentence pairs.
        measures: Of the retrieval tasks; empty = the usual ones.
        depth: Passages per query that are scored.
        systems: Who is scored: ``bm25``, ``raw`` (the LLM as it comes; mean pooling unless it carries a contract),
            ``adapted``, ``finetuned``, ``hybrid`` (the last of these together with BM25; retrieval alone). Empty = BM25
            and every model that the run makes, and ``hybrid`` where the index has BM25.
    """

    data: list[RetrievalTask] = []
    sts: list[str] = []
    measures: list[str] = []
    depth: Annotated[int, Field(ge=1)] = 1000
    systems: list[SystemName] = []

    @model_validator(mode="after")
    def _something_to_score(self) -> EvaluateSettings:
        if not self.data and not self.sts:
            raise ValueError("there is nothing to score on; name BEIR folders in data or sentence pairs in sts")
        if not self.data and self.systems and not set(self.systems) - {"bm25", "hybrid"}:
            raise ValueError(f"{self.systems[0]} does not score sentence pairs; name BEIR folders in data, or a model")
        return self


RUN_STAGES = ("pairs", "adapt", "mine", "finetune", "encode", "index", "evaluate")


class RunConfig(Settings):
    """All stages in one recipe. A stage whose section is absent, or ``false``, is not run; ``true`` = its defaults.

    ``[model]``, ``[prompts]`` and ``[encoder]`` hold for every stage; ``[adapt]`` and ``[finetune]`` may change parts
    of them in sections of their own, such as ``[finetune.model]``.

    Attributes:
        corpus: Passages: what adaptation reads, pairs are made of, mining searches and ``encode`` encodes, unless the
            stage names another.
        model: The LLM that the run begins with.
        prompts: The wording.
        encoder: Lengths, pooling, pairing.
        adapt: As in an adaptation recipe; ``text.corpus`` goes before ``corpus``.
        pairs: Queries with positives.
        mine: Hard negatives for them.
        finetune: As in a fine-tuning recipe, but for ``data.sources``: it reads what ``mine`` or ``pairs`` wrote.
        encode: The corpus as vectors.
        index: The index over them.
        evaluate: Scores of the models.
    """

    corpus: str = ""
    model: ModelSettings = ModelSettings()
    prompts: PromptSettings = PromptSettings()
    encoder: EncoderSettings = EncoderSettings()
    adapt: AdaptConfig | None = None
    pairs: PairsSettings | None = None
    mine: MiningStageSettings | None = None
    finetune: FinetuneConfig | None = None
    encode: EncodeSettings | None = None
    index: IndexSettings | None = None
    evaluate: EvaluateSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _share(cls, data: Any) -> Any:
        """Put the shared sections under those of the stages."""
        data = _switched(data, RUN_STAGES)
        if isinstance(data, dict):
            shared = {name: data[name] for name in ("model", "prompts", "encoder") if isinstance(data.get(name), dict)}
            for stage in ("adapt", "finetune"):
                if isinstance(data.get(stage), dict):
                    data[stage] = _merged(shared, data[stage])
        return data

    @model_validator(mode="after")
    def _stages_fit(self) -> RunConfig:
        if not any(getattr(self, stage) is not None for stage in RUN_STAGES):
            raise ValueError(f"no stage to run; write a section for at least one of {', '.join(RUN_STAGES)}")
        for stage, needed in (("mine", "pairs"), ("finetune", "pairs"), ("index", "encode")):
            if getattr(self, stage) is not None and getattr(self, needed) is None:
                raise ValueError(f"[{stage}] needs what [{needed}] makes; write a [{needed}] section too")
        if self.mine and self.mine.rounds > 1 and not self.finetune:
            raise ValueError(f"mine.rounds is {self.mine.rounds}, but nothing is fine-tuned between; add [finetune]")
        self._check_corpus()
        self._check_models()
        return self

    def _check_corpus(self) -> None:
        reads = {
            "adapt": self.adapt is not None and not self.adapt.text.corpus,
            "pairs.from_corpus": self.pairs is not None and self.pairs.from_corpus is not None,
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
        if self.adapt is not None and self.finetune is not None:
            _check_same_contract(self.adapt, self.finetune)
        missing = [name for name in (self.evaluate.systems if self.evaluate else []) if not self._makes(name)]
        if missing:
            raise ValueError(f"evaluate.systems: {missing[0]} is no model of this run; add its stage or leave it out")

    def _makes(self, system: str) -> bool:
        return {"adapted": self.adapt is not None, "finetuned": self.finetune is not None}.get(system, True)


def _check_same_contract(adapt: AdaptConfig, finetune: FinetuneConfig) -> None:
    """Fine-tuning keeps the contract of the adapted encoder: what it repeats must be the same."""
    if "prompts" in finetune.model_fields_set and finetune.prompts != adapt.prompts:
        raise ValueError("finetune.prompts: fine-tuning keeps the wording of the adaptation; write it in [prompts]")
    for name in ("pooling", "layers", "query_max_tokens", "passage_max_tokens"):
        there, now = getattr(adapt.encoder, name), getattr(finetune.encoder, name)
        if name in finetune.encoder.model_fields_set and there != now:
            raise ValueError(
                f"finetune.encoder.{name} is {now!r} and the adapted encoder has {there!r}; write it in [encoder]"
            )


def _switched(data: Any, sections: Iterable[str]) -> Any:
    """Read ``section = true`` as an empty section and ``false`` as none."""
    if not isinstance(data, dict):
        return data
    words: dict[bool, dict[str, Any] | None] = {True: {}, False: None}
    return {key: words[value] if key in sections and isinstance(value, bool) else value for key, value in data.items()}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay one tree of settings over another."""
    found = dict(below)
    for key, value in above.items():
        under = found.get(key)
        found[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return found


ConfigT = TypeVar("ConfigT", bound=Settings)


def load_config(schema: type[ConfigT], path: str | Path | None, overrides: Iterable[str] = ()) -> ConfigT:
    """Read a TOML recipe, put ``key=value`` overrides on top and validate both.

    Args:
        schema: The settings model to fill.
        path: TOML file; None = the defaults.
        overrides: ``section.key=value`` strings; the value is read as TOML where it can be, else as text.
            A whole prompt recipe can be named: ``prompts=released``.

    Returns:
        The frozen settings.

    Raises:
        ConfigError: Unreadable file, unknown key (with the nearest known one), or a value that does not fit.
    """
    where = str(path) if path else "--set"
    data = _read_toml(Path(path)) if path else {}
    for override in overrides:
        _apply_override(data, override)
    _expand_prompt_recipe(data)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_first_problem(schema, error, where)) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; give the path of a TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        inner = data.setdefault(section, {})
        if isinstance(inner, str) and section == "prompts":
            inner = data[section] = _prompt_recipe(inner)
        if inner is True:
            inner = data[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: '{section}' is a value, not a section")
        data = inner
    data[last] = value


def _expand_prompt_recipe(data: dict[str, Any]) -> None:
    """Replace ``prompts = "released"`` by its wording; a ``recipe`` key alone means the same."""
    for section in data.values():
        if isinstance(section, dict) and "prompts" in section:
            _expand_prompt_recipe(section)
    prompts = data.get("prompts")
    if isinstance(prompts, str):
        data["prompts"] = _prompt_recipe(prompts)
    elif isinstance(prompts, dict) and prompts.get("recipe") in PROMPT_RECIPES:
        data["prompts"] = _prompt_recipe(prompts["recipe"]) | prompts


def _prompt_recipe(name: str) -> dict[str, Any]:
    if name not in PROMPT_RECIPES:
        raise ConfigError(f"prompts: no recipe called '{name}'; choose from {', '.join(PROMPT_RECIPES)}")
    return PROMPT_RECIPES[name].model_dump()


def _first_problem(schema: type[Settings], error: ValidationError, where: str) -> str:
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _keys(schema, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{where}: unknown key '{key}'; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    return f"{where}: {key or 'recipe'}: {message}{given}"


def _keys(schema: type[Settings], location: list[str]) -> list[str]:
    found: Any = schema
    for part in location:
        # A number is the place in a list, whose items were taken already.
        found = found if part.isdigit() else _section(found.model_fields[part].annotation)
        if found is None:
            return []
    return list(found.model_fields)


def _section(annotation: Any) -> type[Settings] | None:
    """Return the settings model inside an annotation: itself, or a member of a union or list."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part))), None)
