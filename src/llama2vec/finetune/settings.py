"""Settings of stage 2, fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llama2vec.config import EncoderSettings, ModelSettings, OptimizerSettings, PromptName, PromptSettings, Settings


class ExamplesSettings(Settings):
    """Which labeled examples fine-tuning reads.

    Attributes:
        sources: BEIR folders, JSONL files, ``hf:dataset`` …; one name or a list.
        split: Split of BEIR folders and hub datasets.
        limit: Read at most this many examples of each source; 0 = all.
        query_max_tokens: Cut training queries here; 0 = where the encoder cuts them.
        passage_max_tokens: Cut training passages here; 0 = where the encoder cuts them. Shorter is faster, and the
            encoder still reads its own length afterwards.
        homogeneous_batches: Fill each batch from one source; what is left of the sources shares the last batches.
    """

    sources: str | list[str] = Field(default_factory=list)
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
    dimensions: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
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
        source: Labeled examples or a BEIR folder; "" = hold out a share of the training examples.
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


class FinetuneOptimizerSettings(OptimizerSettings):
    """How the weights move in fine-tuning; what is not named here is as in adaptation.

    Attributes:
        steps: Optimizer steps; 0 = as many as ``epochs`` take.
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
    optimizer: FinetuneOptimizerSettings = FinetuneOptimizerSettings()
    encoder: FinetuneEncoderSettings = FinetuneEncoderSettings()
