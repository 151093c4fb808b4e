"""Settings of stage 1, adaptation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llama2vec.config import EncoderSettings, ModelSettings, PromptName, PromptSettings, Settings
from llama2vec.data.corpus.spread import spread_mark
from llama2vec.data.settings import ReadingSettings, TextSettings
from llama2vec.data.text.words import stop_words_identity
from llama2vec.training.settings import OptimizerSettings, TrackingSettings


class ObjectiveSettings(Settings):
    """The pretext losses: what the embedding must predict.

    Attributes:
        self_weight: Weight of EBAE; 0 switches it off. The encoder then reads with NEXT, unless ``query_prompt`` or
            ``passage_prompt`` is set.
        next_weight: Weight of EBAR; 0 switches it off, and the encoder reads with SELF likewise.
        language_model_weight: Weight of the ordinary next-token loss on T (1 in the authors' code, 0 in the paper).
        pretext_weight: Factor on the mean of EBAE and EBAR (0.1 in the authors' code).
        targets: ``in_text`` = the tokens of the text that overlap a word to predict; ``words`` = those words joined by
            spaces and tokenized again, with those beyond the cut of T, as in the authors' code. They also differ where
            a word follows no space.
        token_weights: ``uniform``, or ``idf`` = each token's inverse document frequency in the corpus.
        micro_batch_tokens: Most cells (texts x longest sequence) of one pass through the model. A larger batch is read
            in pieces: the same gradients in the memory of one piece. 0 = 2,048 on a CPU, whole batches on a GPU.
            Several processes always read whole batches.
        sequences: How the model reads a text and its prompts: ``joint`` = once, both prompts in one sequence;
            ``separate`` = once for each prompt; ``auto`` = joint where a comparison before the training shows that this
            model gives the same logits, as most do. The losses are the same.
    """

    self_weight: Annotated[float, Field(ge=0)] = 1.0
    next_weight: Annotated[float, Field(ge=0)] = 1.0
    language_model_weight: Annotated[float, Field(ge=0)] = 0.0
    pretext_weight: Annotated[float, Field(gt=0)] = 1.0
    targets: Literal["in_text", "words"] = "in_text"
    token_weights: Literal["uniform", "idf"] = "idf"
    micro_batch_tokens: Annotated[int, Field(ge=0)] = 0
    sequences: Literal["auto", "joint", "separate"] = "auto"

    @property
    def trained_prompts(self) -> tuple[PromptName, ...]:
        """The prompts whose tasks have a weight."""
        weights: dict[PromptName, float] = {"self": self.self_weight, "next": self.next_weight}
        return tuple(prompt for prompt, weight in weights.items() if weight)

    @model_validator(mode="after")
    def _something_to_learn(self) -> ObjectiveSettings:
        if not self.trained_prompts:
            raise ValueError(
                "self_weight and next_weight are both 0: there is nothing to learn; set one of them above 0"
            )
        return self


class AdaptEncoderSettings(EncoderSettings):
    """:class:`EncoderSettings` with the best default for an adapted model (docs/lab-notes.md).

    Attributes:
        drop_layers: Number of top layers that the saved encoder leaves out. Training reads them all: they predict the
            tokens, and the one below them represents the text better. For ``servable``, which has one layer.
        standardize: Scale the final norm of the saved encoder so that the dimensions of its vectors vary alike over
            training texts. Needs ``layers = 1``.
    """

    added_later = EncoderSettings.added_later | {"drop_layers", "standardize"}

    layers: Annotated[int, Field(ge=1)] = 8  # Average this many of the last layers; a model with fewer averages all
    drop_layers: Annotated[int, Field(ge=0)] = 0
    standardize: bool = False

    @model_validator(mode="after")
    def _standardizes_one_layer(self) -> AdaptEncoderSettings:
        if self.standardize and self.layers != 1:
            raise ValueError(f"standardize scales the last layer, and layers is {self.layers}; set layers to 1")
        return self

    def reading_with(self, prompt: PromptName) -> AdaptEncoderSettings:
        """Return the settings with this prompt on each side for which none was set."""
        given = {"query_prompt", "passage_prompt"} & self.model_fields_set
        if self.servable and given:  # Both sides have the one that was set
            return self
        unset = {"query_prompt", "passage_prompt"} - given
        return self.model_copy(update=dict.fromkeys(sorted(unset), prompt))

    @property
    def of_contract(self) -> EncoderSettings:
        """The settings without what only the adaptation does."""
        return EncoderSettings.model_validate(self.model_dump(exclude={"drop_layers", "standardize"}))


class AdaptConfig(Settings):
    """A whole adaptation recipe (stage 1)."""

    model: ModelSettings = ModelSettings()
    prompts: PromptSettings = PromptSettings()
    text: TextSettings = TextSettings()
    reading: ReadingSettings = ReadingSettings()  # How documents and rows of ``text.corpus`` are read
    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    encoder: AdaptEncoderSettings = AdaptEncoderSettings()
    tracking: TrackingSettings = TrackingSettings()

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide the result; of how text is read, what differs from the defaults."""
        # The size of the pieces and the sequences decide memory, not the result: a run that ran out of it may resume
        # with others.
        found = self.model_dump(
            exclude={"objective": {"micro_batch_tokens", "sequences"}, "reading": True, "tracking": True}
        )
        found["text"]["stop_words"] = stop_words_identity(self.text.stop_words)
        found["text"] |= spread_mark(self.text.limit, [self.text.corpus])
        return found | ({"reading": self.reading.choices} if self.reading.choices else {})

    @model_validator(mode="after")
    def _reads_with_a_trained_prompt(self) -> AdaptConfig:
        """Let the encoder read with the only prompt that is trained, on each side for which none was set."""
        if len(trained := self.objective.trained_prompts) == 1:
            # A new object: the default one belongs to all recipes.
            vars(self)["encoder"] = self.encoder.reading_with(trained[0])
        return self
