"""The LLM that writes questions: batches, seeds, and where a question ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from llama2vec.errors import ConfigError
from llama2vec.generate.settings import GenerateSettings
from llama2vec.model.backbone import Backbone
from llama2vec.model.lengths import warn_of_cut
from llama2vec.model.loading import quiet_transformers
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

_LEAST_PASSAGE = 8


class QuestionWriter:
    """Writes questions that passages answer.

    Args:
        backbone: A causal LM with its output head; better one that was tuned to follow instructions.
        settings: Prompt, lengths, sampling.

    Raises:
        ConfigError: The prompt leaves no room for passages.
        ModelError: The weights have no output head, or one that no longer fits.
    """

    def __init__(self, backbone: Backbone, settings: GenerateSettings) -> None:
        backbone.require_head("generate")
        self._backbone, self._settings = backbone, settings
        before, _, after = settings.prompt.partition("{passage}")
        tokenizer = backbone.tokenizer
        self._before = list(tokenizer(before)["input_ids"])
        if self._before and self._before[-1] == tokenizer.eos_token_id:
            del self._before[-1]  # Some tokenizers end every text.
        self._after = list(tokenizer(after, add_special_tokens=False)["input_ids"])
        self._room = self._passage_room()
        ends = tokenizer.eos_token_id
        self._padding = ends if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        drawn = settings.temperature > 0
        self._config = GenerationConfig(
            max_new_tokens=settings.question_max_tokens, num_return_sequences=settings.questions, use_cache=True,
            do_sample=drawn, temperature=settings.temperature if drawn else None,
            top_p=settings.top_p if drawn else None, top_k=0 if drawn else None,
            eos_token_id=ends, pad_token_id=self._padding or 0, stop_strings=["\n"],
        )  # fmt: skip

    @torch.no_grad()
    def write(self, texts: Sequence[str], seed: int) -> list[list[str]]:
        """Return ``settings.questions`` questions for each text; "" where the LLM did not end one in time.

        Equal texts, in the same order and with the same seed, get the same questions on the same machine.
        """
        if self._backbone.padding_changes_vectors and len(texts) > 1:
            return [self.write([text], seed + place)[0] for place, text in enumerate(texts)]
        rows = [[*self._before, *self._passage(text), *self._after] for text in texts]
        longest, device = max(map(len, rows)), self._backbone.model.device
        padded = [[self._padding or 0] * (longest - len(row)) + row for row in rows]
        seen = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), quiet_transformers():
            torch.manual_seed(seed)
            found = self._backbone.model.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(seen, device=device),
                generation_config=self._config,
                tokenizer=self._backbone.tokenizer,
            )
        written = [self._question(row) for row in found[:, longest:].tolist()]
        each = self._settings.questions
        return [written[begin : begin + each] for begin in range(0, len(written), each)]

    def warn_of_cut(self, texts: Sequence[str]) -> None:
        """Say how many texts the LLM does not read to their end."""
        cut = sum(len(self._ids(text)) > self._room for text in texts)
        remedy = f"after {counted(self._room, 'token')} is not read; generate.passage_max_tokens sets how much is"
        warn_of_cut("", cut, len(texts), remedy)

    def _ids(self, text: str) -> list[int]:
        # The end of a line ends the passage.
        line, tokenizer = " ".join(text.split()), self._backbone.tokenizer
        return list(tokenizer(line, add_special_tokens=False, verbose=False)["input_ids"])

    def _passage(self, text: str) -> list[int]:
        return self._ids(text)[: self._room]

    def _passage_room(self) -> int:
        """Return how many tokens of a passage fit the model's context, and say so where that is a cut."""
        settings, context = self._settings, getattr(self._backbone.model.config, "max_position_embeddings", None)
        wanted = settings.passage_max_tokens
        if not context or context < 1:
            return wanted
        room = int(context) - len(self._before) - len(self._after) - settings.question_max_tokens
        if room < _LEAST_PASSAGE:
            raise ConfigError(
                f"generate.prompt: leaves {max(room, 0)} of the {context} tokens that {self._backbone.source.name} "
                "reads for a passage; shorten it, or lower generate.question_max_tokens"
            )
        if room < wanted:
            logger.warning("generate.passage_max_tokens is cut to %d from %d: the model reads no more", room, wanted)
        return min(wanted, room)

    def _question(self, ids: Sequence[int]) -> str:
        text = self._backbone.tokenizer.decode(ids, skip_special_tokens=True)
        line, end, _ = text.lstrip(" ").partition("\n")
        # A tokenizer that ends texts in the padding token leaves padding in a row that has ended.
        ended = bool(end) or self._backbone.tokenizer.eos_token_id in ids
        return " ".join(line.split()) if ended else ""
