"""Why a passage matches a query: the words that both embeddings stand for, and the sentences that carry the score.

EBAE trains the hidden state at the slots (last layer, after the final norm) so that the model's own head predicts the
words of the text itself (SELF) or of the text that follows (NEXT). Reading the head there names what an embedding
holds. Raw logits put much the same frequent tokens on top for every text, so a word's weight is log(1 + surplus): its
largest logit over the slots and over its spellings, minus the same over a few neutral texts. The heaviest words of a
text make its word vector, which has length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from llama2vec.data.examples.unlabeled import joined, sentence_parts
from llama2vec.data.text.words import stop_words, word_key, word_pattern
from llama2vec.errors import ModelError
from llama2vec.model.backbone import decoder
from llama2vec.model.encoder import Encoder
from llama2vec.model.pooling import last_hidden_states, slot_states
from llama2vec.model.prompt import Tokenizer, prompted_texts
from llama2vec.records import Side

WORDS_PER_TEXT: dict[Side, int] = {"query": 64, "passage": 256}
"""Most words of a word vector."""

NEUTRAL_TEXTS = (
    "",
    "This is a text.",
    "There are several kinds of them, and each has its own use.",
    "People do many things every day.",
    "In the following we describe how it works.",
    "The results of the study are shown in the table below.",
    "She said that she would come back later in the week.",
    "The company announced new products for the next year.",
    "The town lies on a river in the north of the country.",
    "He was born in a small village and later moved to the city.",
    "The government passed a law about schools and hospitals.",
    "Plants need water and light to grow.",
    "Patients were given the treatment for several months.",
    "The book tells the story of a family over a long time.",
    "The team won the last game of the season.",
    "Heat the oil in a pan and add the vegetables.",
    "The machine is driven by an electric motor.",
    "What is the difference between the two methods?",
    "How much does it cost, and where can I buy it?",
    "The function returns the number of items in the list.",
    "The war ended after many years, and peace was signed.",
    "The painting hangs in a museum in the capital.",
    "Prices rose faster than wages in most regions.",
    "The animal lives in forests and feeds on small insects.",
)
"""One sentence from each of many subjects: what the head says about their mean it says about nearly every text."""

# Scaled to length 1, a smaller surplus, which rounding alone can cause, would look like a word.
_ROUNDING = 1e-3
_WHOLE_WORD_LETTERS = 4
_PIECE = "…"


class WordWeight(NamedTuple):
    """A word, lower case, with its entry of the word vector; a piece that only continues words starts with ``…``."""

    word: str
    weight: float


class SharedWord(NamedTuple):
    """A word of both texts; its contribution to the word score is the product of its weights."""

    word: str
    query_weight: float
    passage_weight: float
    contribution: float


class SentenceEvidence(NamedTuple):
    """A sentence of the passage, and how far the cosine falls without it; below 0, it rises."""

    text: str
    drop: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A query and a passage side by side."""

    cosine: float  # What dense search ranks by.
    word_score: float  # Dot product of the word vectors.
    query_words: list[WordWeight]  # What the query's embedding stands for, heaviest first.
    passage_words: list[WordWeight]
    shared: list[SharedWord]  # Largest contribution first; together they add up to word_score.
    evidence: list[SentenceEvidence]  # Largest drop first; empty unless asked for, and for a single sentence.


class Explainer:
    """Explain matches by the words and sentences that make them; ``language`` decides stop words and sentence ends.

    Raises:
        ModelError: The vectors are means over the text's own tokens, or the weights have no output head.
    """

    def __init__(self, encoder: Encoder, *, language: str = "en") -> None:
        if encoder.contract.encoder.pooling != "slots":
            raise ModelError(
                f"{encoder.backbone.source.name}: vectors are means over the text's tokens (pooling=mean), which no "
                "output head was trained to read; explain needs an encoder with pooling=slots"
            )
        encoder.backbone.require_head("explain")
        self.encoder, self.language = encoder, language
        self._head = encoder.backbone.model.get_output_embeddings()
        rows = int(self._head.weight.shape[0])
        named = words_of_tokens(encoder.backbone.tokenizer, rows, stop_words(language))
        self.words = tuple(dict.fromkeys(named.values()))
        place = {word: number for number, word in enumerate(self.words)}
        device = encoder.backbone.model.device
        self._tokens = torch.tensor(list(named), dtype=torch.long, device=device)  # [M]
        self._places = torch.tensor([place[word] for word in named.values()], dtype=torch.long, device=device)

    def explain(self, query: str, passage: str, *, top: int = 12, evidence: bool = False) -> Explanation:
        """Explain a match by up to ``top`` words of each embedding and, with ``evidence``, by its sentences."""
        asked, found = self.weights(query, "query"), self.weights(passage, "passage")
        shared = [
            SharedWord(word, asked[word], found[word], asked[word] * found[word]) for word in asked if word in found
        ]
        return Explanation(
            cosine=float(self.encoder.encode_queries(query) @ self.encoder.encode_passages(passage)),
            word_score=sum(word.contribution for word in shared),
            query_words=[WordWeight(*pair) for pair in list(asked.items())[:top]],
            passage_words=[WordWeight(*pair) for pair in list(found.items())[:top]],
            shared=sorted(shared, key=lambda word: (-word.contribution, word.word)),
            evidence=self.evidence(query, passage) if evidence else [],
        )

    def evidence(self, query: str, passage: str) -> list[SentenceEvidence]:
        """Return how far the cosine falls without each sentence of a passage, the largest fall first.

        Exact: every remainder is encoded. A sentence beyond the encoder's length limit was not read and changes
        nothing; without an earlier one, it may move within the limit.
        """
        parts = sentence_parts(passage, self.language)
        if len(parts) < 2:
            return []
        without = [joined(parts[:place] + parts[place + 1 :]) for place in range(len(parts))]
        vectors = self.encoder.encode_passages([joined(parts), *without])
        whole, *rest = (vectors @ self.encoder.encode_queries(query)).tolist()
        found = [SentenceEvidence(text.rstrip(), whole - score) for text, score in zip(parts, rest, strict=True)]
        return sorted(found, key=lambda sentence: -sentence.drop)

    def weights(self, text: str, side: Side) -> dict[str, float]:
        """Return the word vector of a text: word → weight, heaviest first; empty if no word stands out."""
        surplus = (self._word_logits(text, side) - self._neutral).clamp(min=0)
        surplus[surplus < _ROUNDING] = 0
        best, places = torch.log1p(surplus).topk(min(WORDS_PER_TEXT[side], len(self.words)))
        best = torch.nn.functional.normalize(best, dim=0)
        found = [(self.words[place], weight) for place, weight in zip(places.tolist(), best.tolist(), strict=True)]
        return dict(sorted((pair for pair in found if pair[1] > 0), key=lambda pair: (-pair[1], pair[0])))

    @cached_property
    def _neutral(self) -> Tensor:
        """[W] mean logit of each word over the neutral texts, read as passages."""
        return torch.stack([self._word_logits(text, "passage") for text in NEUTRAL_TEXTS]).mean(dim=0)

    @torch.inference_mode()
    def _word_logits(self, text: str, side: Side) -> Tensor:
        """Return each word's largest logit [W] over its spellings and the slots of the last layer."""
        prompt, most = self.encoder.reading(side)
        model, ids = self.encoder.backbone.model, self.encoder.contract.ids
        (row,) = prompted_texts(self.encoder.backbone.tokenizer, [text], ids, prompt, most)
        (hidden,) = last_hidden_states(decoder(model), torch.tensor([row], device=model.device), 1)
        states = slot_states(hidden, torch.tensor([len(row)], device=model.device), ids.slots)
        # Mamba's last states are float32 whatever the format of its weights.
        logits: Tensor = self._head(states[0].to(self._head.weight.dtype)).float().amax(dim=0)[self._tokens]  # [M]
        words = logits.new_full((len(self.words),), -torch.inf)
        return words.scatter_reduce_(0, self._places, logits, "amax")


def words_of_tokens(tokenizer: Tokenizer, vocabulary: int, skip: frozenset[str]) -> dict[int, str]:
    """Name the word that each token stands for, as a reader would write it.

    Case and leading space are folded. A token without a leading space counts as a word if it is capitalized, or if it
    has four letters and the vocabulary also has it with a space; otherwise it is a piece and starts with ``…``. In
    scripts without cases, which often lack spaces too, every token is a word.

    Returns:
        Token id below ``vocabulary`` → word, without special tokens, punctuation, parts of a character, single letters
        and the words in ``skip``.
    """
    # After another token the decoders keep a token's leading space; alone, sentencepiece's drops it.
    anchor = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    lead = tokenizer.decode(anchor, clean_up_tokenization_spaces=False)
    special = frozenset(tokenizer.all_special_ids)
    ids = [token for token in range(min(vocabulary, len(tokenizer))) if token not in special]
    texts = tokenizer.batch_decode([[*anchor, token] for token in ids], clean_up_tokenization_spaces=False)
    strings = [text[len(lead) :] for text in texts]
    begins_words = frozenset(text.strip().casefold() for text in strings if text[:1].isspace())
    words, skipped = {}, frozenset(map(word_key, skip))
    for token, text in zip(ids, strings, strict=True):
        word = _word(text, begins_words)
        if word and word_key(word.removeprefix(_PIECE)) not in skipped:
            words[token] = word
    return words


def _word(text: str, begins_words: frozenset[str]) -> str | None:
    """Return a token's text as a word or a marked piece; None if it is neither."""
    bare = text.strip()
    word = bare.casefold()
    if not word_pattern().fullmatch(word):
        return None
    cased = word != word.upper()
    if len(word) == 1 and (cased or not word.isalpha()):
        return None
    whole = text[:1].isspace() or not cased or bare[:1].isupper()
    if whole or (len(word) >= _WHOLE_WORD_LETTERS and word in begins_words):
        return word
    return _PIECE + word
