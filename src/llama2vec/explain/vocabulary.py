"""The words that an embedding stands for: what the model's own head says at the slots.

EBAE trains the hidden state at the slots (last layer, behind the final norm) so that the head predicts the words of the
text itself (SELF) or of the text that follows (NEXT). Read back, this names the embedding's content, and gives a sparse
vector over words that an inverted index can hold.

Raw logits are topped by the same frequent tokens for every text. What makes a text special is how far a word's logit
stands above its mean over a few neutral texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llama2vec.data.words import WORD, stop_words
from llama2vec.errors import ConfigError, MissingDependencyError, ModelError
from llama2vec.manifest import digest
from llama2vec.model.backbone import decoder
from llama2vec.model.batching import padded_batches, windows
from llama2vec.model.encoder import Encoder
from llama2vec.model.pooling import last_hidden_states, slot_states
from llama2vec.model.prompt import Tokenizer, prompted_texts
from llama2vec.records import Side as Side

if TYPE_CHECKING:
    from scipy.sparse import csr_array

WORDS_PER_TEXT: dict[Side, int] = {"query": 64, "passage": 256}
"""Most words of a sparse vector, as measured in benchmarks/hybrid.py."""

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

_LOGITS = 1 << 23
"""Most logits at once: 32 MiB in float32, whatever the number of texts."""
_TEXTS = 1024
_ROUNDING = 1e-3
"""A smaller surplus may be an accident of how texts were batched; brought to length 1 it would look like a word."""
_WHOLE_WORD_LETTERS = 4
_PIECE = "…"


@dataclass(frozen=True, slots=True)
class WordWeight:
    """One word of an embedding.

    Attributes:
        word: Lower case; a piece that only continues words starts with ``…``.
        weight: Its entry in the sparse vector, above 0 and at most 1.
    """

    word: str
    weight: float


class VocabularyView:
    """Read embeddings as words.

    The weight of a word is log(1 + surplus), where the surplus is the largest logit of its spellings over the slots
    (the maximum is what EBAE trains where there are several slots), less the same over neutral texts. The largest
    weights make the vector, which is brought to length 1.

    Args:
        encoder: With slots; its prompts decide what each side's words are.
        language: ISO 639-1 code of the stop words that are left out.
        neutral_texts: What every text has in common is learnt from them.

    Raises:
        ModelError: The encoder's vectors are means over the text's own tokens, which no head was trained to read.
        ConfigError: There is no neutral text.
        MissingDependencyError: The stop words or scipy are not installed.
    """

    def __init__(self, encoder: Encoder, *, language: str = "en", neutral_texts: Sequence[str] = NEUTRAL_TEXTS) -> None:
        if encoder.contract.encoder.pooling != "slots":
            raise ModelError(
                f"{encoder.backbone.source.name}: vectors are means over the text's tokens (pooling=mean), which no "
                "output head was trained to read; words and sparse vectors need an encoder with pooling=slots"
            )
        encoder.backbone.require_head("explain")
        if not neutral_texts:
            raise ConfigError("the words of an embedding need at least one neutral text to compare with")
        self.encoder = encoder
        self.language = language
        self._neutral_texts = tuple(neutral_texts)
        self._head = encoder.backbone.model.get_output_embeddings()
        word_of_token = words_of_tokens(
            encoder.backbone.tokenizer, int(self._head.weight.shape[0]), stop_words(language)
        )
        self.words: tuple[str, ...] = tuple(dict.fromkeys(word_of_token.values()))
        row = {word: place for place, word in enumerate(self.words)}
        device = encoder.backbone.model.device
        self._tokens = torch.tensor(list(word_of_token), dtype=torch.long, device=device)  # [M]
        self._rows = torch.tensor([row[word] for word in word_of_token.values()], dtype=torch.long, device=device)

    @property
    def contract_hash(self) -> str:
        """Of the encoder."""
        return self.encoder.contract_hash

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides a sparse vector; two views with the same hash give the same ones."""
        return digest(
            {
                "contract": self.contract_hash,
                "words": self.words,
                "neutral_texts": self._neutral_texts,
                "most_words": WORDS_PER_TEXT,
                "weights": "log1p(max logit - neutral), L2",
            }
        )

    def top_words(self, texts: Sequence[str], side: Side, k: int = 12) -> list[list[WordWeight]]:
        """Return the heaviest words of each text, at most ``k``, heaviest first: the top of its sparse vector."""
        rows = self.sparse(texts, side)
        found = []
        for begin, end in zip(rows.indptr, rows.indptr[1:], strict=False):
            weights, words = rows.data[begin:end], rows.indices[begin:end]
            order = np.lexsort((words, -weights))[:k]
            found.append([WordWeight(self.words[words[place]], float(weights[place])) for place in order])
        return found

    def sparse(self, texts: Sequence[str], side: Side, k: int | None = None) -> csr_array:
        """Return sparse vectors of length 1 over :attr:`words`.

        Args:
            texts: N texts.
            side: Which of the contract's two prompts and lengths.
            k: Most words of a text; None = 64 of a query, 256 of a passage.

        Returns:
            [N, W] float32, no entry below 0; a text without any word above the neutral texts has an empty row.
        """
        try:
            from scipy.sparse import csr_array
        except ImportError as error:
            raise MissingDependencyError("sparse vectors need scipy; pip install 'llama2vec[search]'") from error
        most = min(WORDS_PER_TEXT[side] if k is None else k, len(self.words))
        if most < 1:
            raise ConfigError(f"a sparse vector needs at least one word, not {most}; check k and the vocabulary")
        counts, words, weights = [0], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        for logits in self._logit_blocks(texts, side):
            surplus = logits - self._neutral
            surplus[surplus < _ROUNDING] = 0
            best, columns = torch.log1p(surplus).topk(most, dim=1)
            best = torch.nn.functional.normalize(best, dim=1)
            columns, order = columns.sort(dim=1)
            best = best.gather(1, order)
            kept = best > 0
            counts += kept.sum(dim=1).tolist()
            words.append(columns[kept].to(torch.int32).cpu().numpy())
            weights.append(best[kept].cpu().numpy())
        parts = np.concatenate(weights), np.concatenate(words), np.cumsum(counts)
        return csr_array(parts, shape=(len(texts), len(self.words)))

    @cached_property
    def _neutral(self) -> Tensor:
        """[W] mean logit of each word over the neutral texts, read as passages."""
        blocks = [logits.sum(dim=0) for logits in self._logit_blocks(self._neutral_texts, "passage")]
        return torch.stack(blocks).sum(dim=0) / len(self._neutral_texts)

    def _logit_blocks(self, texts: Sequence[str], side: Side) -> Iterator[Tensor]:
        """Yield the word logits [b, W] of a few texts at a time, in their order."""
        step = max(1, _LOGITS // (int(self._head.weight.shape[0]) * self.encoder.contract.ids.slots))
        for window in windows(texts, _TEXTS):
            states = self._slot_states(window, side)
            for begin in range(0, len(states), step):
                yield self._word_logits(states[begin : begin + step])

    @torch.inference_mode()
    def _word_logits(self, states: Tensor) -> Tensor:
        """Return the largest logit [b, W] of each word's spellings over the slots of [b, S, D] states."""
        logits: Tensor = self._head(states).float().amax(dim=1)[:, self._tokens]  # [b, M]
        words = logits.new_full((len(logits), len(self.words)), -torch.inf)
        return words.scatter_reduce_(1, self._rows.expand(len(logits), -1), logits, "amax")

    @torch.inference_mode()
    def _slot_states(self, texts: Sequence[str], side: Side) -> Tensor:
        """Return the last layer's states [N, S, D] at the slots, whatever layers the vector is made of."""
        encoder = self.encoder
        prompt, most = encoder.reading(side)
        model, ids = encoder.backbone.model, encoder.contract.ids
        sequences = prompted_texts(encoder.backbone.tokenizer, texts, ids, prompt, most)
        body = decoder(model)
        found = torch.empty((len(texts), ids.slots, encoder.dimension), dtype=model.dtype, device=model.device)
        boundary = encoder.backbone.rotary_boundary
        for batch in padded_batches(sequences, encoder.batch_tokens, encoder.pad_id, boundary=boundary):
            (hidden,) = last_hidden_states(body, batch.input_ids.to(model.device), 1)
            found[batch.rows] = slot_states(hidden, batch.lengths.to(model.device), ids.slots)
        return found


def words_of_tokens(tokenizer: Tokenizer, vocabulary: int, skip: frozenset[str]) -> dict[int, str]:
    """Name the word that each token stands for, as a reader would write it.

    Case and leading space are folded. A token without a leading space may begin a text or continue a word: it counts as
    a word where it is capitalized, or where it has four letters and the vocabulary has it with a space too; else it is
    a piece and starts with ``…``. Scripts without cases often have no spaces either: there every token is a word.

    Args:
        tokenizer: Byte-level, sentencepiece, …: what its decoder says is what counts.
        vocabulary: V; ids from 0 on.
        skip: Words that are left out.

    Returns:
        Token id → word, in the order of the ids; tokens that are special, punctuation, parts of a character, single
        letters or left out are missing.
    """
    # Behind another token the decoders keep a token's leading space; alone, sentencepiece's drops it.
    anchor = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    lead = tokenizer.decode(anchor, clean_up_tokenization_spaces=False)
    special = frozenset(tokenizer.all_special_ids)
    ids = [token for token in range(min(vocabulary, len(tokenizer))) if token not in special]
    texts = tokenizer.batch_decode([[*anchor, token] for token in ids], clean_up_tokenization_spaces=False)
    strings = [text[len(lead) :] for text in texts]
    begins_words = frozenset(text.strip().casefold() for text in strings if text[:1].isspace())
    words = {}
    for token, text in zip(ids, strings, strict=True):
        word = _word(text, begins_words)
        if word and word.removeprefix(_PIECE) not in skip:
            words[token] = word
    return words


def _word(text: str, begins_words: frozenset[str]) -> str | None:
    """Return the word or the marked piece that a token's text is; None where it is neither."""
    bare = text.strip()
    word = bare.casefold()
    if not WORD.fullmatch(word):
        return None
    cased = word != word.upper()
    if len(word) == 1 and (cased or not word.isalpha()):
        return None
    whole = text[:1].isspace() or not cased or bare[:1].isupper()
    if whole or (len(word) >= _WHOLE_WORD_LETTERS and word in begins_words):
        return word
    return _PIECE + word
