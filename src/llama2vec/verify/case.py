"""One side of a model and the vectors that a backend gave for it: what every known fault is tried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llama2vec.config import PromptName
from llama2vec.model.golden import Side
from llama2vec.model.pooling import Vectors
from llama2vec.verify.plain import PlainModel, Reading

NEAR_COSINE = 0.99
"""Two vectors with a lower cosine are different in any number format."""


@dataclass(frozen=True, slots=True)
class Case:
    """One side of a model, and what a backend gave for it.

    Attributes:
        plain: The model.
        side: Query or passage.
        texts: N golden texts.
        golden: [N, D] golden vectors.
        given: [N, D] the backend's, at unit length.
    """

    plain: PlainModel
    side: Side
    texts: tuple[str, ...]
    golden: Vectors
    given: Vectors

    @property
    def prompt(self) -> PromptName:
        """The prompt that the side should have."""
        return self.plain.prompt(self.side)

    @property
    def slot_ids(self) -> tuple[int, ...]:
        """Ids of the slots that end the side's suffix."""
        return self.plain.suffix(self.prompt)[-self.plain.slots :]

    @property
    def slot_is_eos(self) -> bool:
        """Whether the model has no slot tokens of its own and pools EOS."""
        return not self.plain.contract["prompts"]["slots"]

    @property
    def prefix_words(self) -> tuple[int, ...]:
        """Ids of the words that the prompt puts before the text."""
        words: str = self.plain.contract["prompts"]["prefix"]
        return self.plain.text_ids(words) if words else ()

    @property
    def begin(self) -> tuple[int, ...]:
        """Ids before the prefix's words: BOS, where the contract has one."""
        return self.plain.prefix[: len(self.plain.prefix) - len(self.prefix_words)]

    def readings(self) -> list[Reading]:
        """Return the texts as they should be read."""
        return [self.plain.reading(text, self.side) for text in self.texts]

    def bare_readings(self) -> list[Reading]:
        """Return the texts as a library reads them that knows neither prompts nor limits, only the context."""
        limit = self.plain.context - len(self.begin)
        return [self.plain.reading(text, self.side, prefix=self.begin, suffix=(), limit=limit) for text in self.texts]

    def read(self, readings: Sequence[Reading]) -> Vectors | None:
        """Embed other readings of the texts, pooled as the contract says; None where one does not fit or match."""
        plain = self.plain
        if list(readings) == self.readings():
            return self.golden
        least = plain.slots if plain.pools_slots else 1
        if any(not least <= len(one.ids) <= plain.context for one in readings):
            return None
        return self.pool(plain.columns, readings=readings)

    def read_with(
        self,
        *,
        change: Callable[[str], str] = str,
        prefix: Sequence[int] | None = None,
        suffix: Sequence[int] | None = None,
        limit: int | None = None,
    ) -> Vectors | None:
        """Embed the texts, changed or with other ids around them; see :meth:`read` and ``PlainModel.reading``."""
        options = {"prefix": prefix, "suffix": suffix, "limit": limit}
        return self.read([self.plain.reading(change(text), self.side, **options) for text in self.texts])  # type: ignore[arg-type]

    def pool(
        self,
        columns: Callable[[Reading], Sequence[int]],
        layers: Sequence[int] | None = None,
        readings: Sequence[Reading] = (),
    ) -> Vectors | None:
        """Read each text as it should be, or as ``readings`` say, and pool other columns or other layers.

        Returns:
            [N, D]; None where a text has no such column, or as soon as one vector is unlike the backend's: each text
            costs a pass through the model.
        """
        readings = readings or self.readings()
        vectors = np.empty_like(self.golden)
        for row in sorted(range(len(readings)), key=lambda row: len(readings[row].ids)):
            chosen = list(columns(readings[row]))
            if not chosen or min(chosen) < 0:
                return None
            vectors[row] = self.plain.pooled(self.plain.states(readings[row].ids), chosen, layers)
            if not float(vectors[row] @ self.given[row]) > NEAR_COSINE:
                return None
        return vectors

    def pool_batch(
        self, columns: Callable[[Reading, int], Sequence[int]], *, left: bool, mask: bool, pad_id: int | None = None
    ) -> Vectors:
        """Embed all texts as one padded batch, pooled at ``columns`` of (reading, column where its row begins)."""
        plain, readings = self.plain, self.readings()
        ids = [one.ids for one in readings]
        pad = plain.pad_ids[0] if pad_id is None else pad_id
        rows, starts = plain.batch_states(ids, left=left, mask=mask, pad_id=pad)
        found = zip(rows, readings, starts, strict=True)
        return np.stack([plain.pooled(states, columns(one, start)) for states, one, start in found])
