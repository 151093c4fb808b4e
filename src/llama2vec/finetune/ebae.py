"""EBAE beside the contrastive loss: texts still predict their own words, so that training keeps what adaptation taught.

The slots' states leave the model together with the vectors, so the gradient cache carries the gradients of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from llama2vec.data.text.words import chosen_stop_words
from llama2vec.errors import ConfigError, EmptyTargetsError, ModelError
from llama2vec.finetune.batches import DrawnExamples
from llama2vec.finetune.settings import PretextSettings
from llama2vec.model.encoder import Encoder
from llama2vec.model.pooling import slot_states
from llama2vec.pretext.head import has_plain_head
from llama2vec.pretext.loss import bag_of_tokens_loss, padded_targets
from llama2vec.pretext.targets import TargetTokenizer, inverse_document_frequency
from llama2vec.processes import process_count, sum_everywhere
from llama2vec.records import Side

_SAMPLE = 10_000  # Examples that token weights are taken from, at least
_MOST_LOGITS = 1 << 25  # Logits held at once: 128 MiB in float32


class Ebae:
    """The EBAE loss of the texts that SELF follows, on the queries' side or the passages'.

    Args:
        encoder: Gives prompts and head; its model is not wrapped for training yet.
        settings: Weight and targets.
        limits: Most tokens that training reads of a text of each side.

    Raises:
        ConfigError: No side has SELF, or vectors are not pooled at slots.
        ModelError: The model has no output head, or one that does more than a product.
    """

    def __init__(self, encoder: Encoder, settings: PretextSettings, limits: Mapping[Side, int]) -> None:
        contract, backbone = encoder.contract, encoder.backbone
        name, sides = backbone.source.name, [side for side in limits if encoder.reading(side)[0] == "self"]
        if contract.encoder.pooling != "slots":
            raise ConfigError(
                f"pretext.weight needs vectors from slots; encoder.pooling is {contract.encoder.pooling}: set it to 0"
            )
        if not sides:
            raise ConfigError(
                "pretext.weight needs SELF on one side; set encoder.passage_prompt=self, or the weight to 0"
            )
        backbone.require_head("pretext.weight above 0")
        if not has_plain_head(backbone.model):
            raise ModelError(
                f"{name}: its output head does more than a product with its weight, which pretext.weight above 0 does "
                "not support; set it to 0"
            )
        if not backbone.tokenizer.is_fast:
            raise ModelError(
                f"{name}: a slow tokenizer (one without tokenizer.json) does not say where a token's word is, which "
                "pretext.weight above 0 needs; set it to 0"
            )
        self.weight, self.slots = settings.weight, contract.ids.slots
        self._head = backbone.model.get_output_embeddings()
        self._is_weighted = settings.token_weights == "idf"
        self._token_weights: Tensor | None = None
        skip = chosen_stop_words(settings.stop_words, settings.language, key="pretext.stop_words")
        self._tokenize = {
            side: TargetTokenizer(backbone.tokenizer, limits[side], skip, language=settings.language) for side in sides
        }

    def prepare(self, examples: DrawnExamples) -> None:
        """Weigh the tokens by a sample of the training texts.

        Raises:
            EmptyTargetsError: No text of the sample has a token to predict.
        """
        drawn = [examples[row] for row in range(0, len(examples), max(1, len(examples) // _SAMPLE))]
        texts: dict[Side, dict[str, None]] = {
            "query": dict.fromkeys(one.query for one in drawn),
            "passage": dict.fromkeys(text for one in drawn for text in one.passages),
        }
        bags = [bag for side in self._tokenize for bag in self.bags([*texts[side]], side)]
        if self._is_weighted:
            weights = inverse_document_frequency(bags, self._head.weight.shape[0])
            self._token_weights = torch.tensor(weights)
        if not any(self._counts(bag) for bag in bags):
            raise EmptyTargetsError(
                "no training text has a token to predict; all may be stop words, or the same in every text: set "
                "pretext.stop_words=none, or pretext.token_weights=uniform"
            )

    def bags(self, texts: Sequence[str], side: Side) -> list[tuple[int, ...]]:
        """Return the distinct tokens that each text must predict; none on a side without SELF."""
        if side not in self._tokenize:
            return [()] * len(texts)
        return [found.targets for found in self._tokenize[side](texts)]

    def states(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return the slots' states [B, S·D] of the last layer [B, L, D]."""
        return slot_states(hidden, lengths, self.slots).flatten(1).float()

    def count(self, bags: Sequence[tuple[int, ...]]) -> int:
        """Return how many texts have targets."""
        return sum(map(self._counts, bags))

    def loss(self, states: Tensor, text_rows: Tensor, bags: Sequence[tuple[int, ...]], count: float) -> Tensor:
        """Return the mean loss in nats over the texts with targets of all processes, 0 without any.

        Args:
            states: [U, S·D] of the distinct texts, cut from a leaf. The leaf's gradient gets ``weight`` times that of
                the loss's sum over the processes.
            text_rows: [N] row of each text of the batch; a repeated text counts as often as it occurs.
            bags: [N] what each text predicts.
            count: Mean number of texts with targets in a batch of the step, by which the sum of a batch is divided.
        """
        texts = [text for text, bag in enumerate(bags) if self._counts(bag)]
        head = _whole(self._head.weight, states.device)
        total = states.new_zeros(())
        chunk = max(1, _MOST_LOGITS // (self.slots * len(head)))
        for first in range(0, len(texts), chunk):
            chosen = texts[first : first + chunk]
            targets, weights = padded_targets([bags[text] for text in chosen], self._token_weights)
            slots = states[text_rows[chosen].to(states.device)].view(len(chosen), self.slots, -1).to(head.dtype)
            loss = bag_of_tokens_loss(linear(slots, head), targets.to(states.device), weights.to(states.device))
            share = loss * (len(chosen) / count)
            # The weights' gradients are averaged over the processes afterwards.
            (self.weight * share).backward()  # type: ignore[no-untyped-call]
            total += share.detach()
        return sum_everywhere(total) / process_count()

    def _counts(self, bag: Sequence[int]) -> bool:
        """Whether a text has a target of a weight above 0."""
        return bool(bag) and (self._token_weights is None or bool((self._token_weights[list(bag)] > 0).any()))


def _whole(weight: Tensor, device: torch.device) -> Tensor:
    """Return the weight of a head, which processes may share, without its graph."""
    found: Tensor = weight.detach().to(device)
    gather: Callable[[], Tensor] = getattr(found, "full_tensor", lambda: found)
    return gather()
