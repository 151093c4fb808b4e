"""Counts how much of a text is looked at to find where its next word begins."""

from __future__ import annotations

import re

from llama2vec.data.text.cutting import NON_SPACE


class CountedSearch:
    """Searches as :data:`llama2vec.data.text.cutting.NON_SPACE` does."""

    def __init__(self) -> None:
        self.characters = 0

    def search(self, text: str, place: int = 0) -> re.Match[str] | None:
        """Return the next match; the characters up to its end count."""
        found = NON_SPACE.search(text, place)
        self.characters += (found.end() if found else len(text)) - place
        return found
