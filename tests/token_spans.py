"""Token spans as tokenizers of different kinds give them."""

import re


def four_letter_spans(text: str) -> list[tuple[int, int]]:
    """Tokens of up to four characters that take the space in front of a word with them, as most LLMs' do."""
    found = []
    for match in re.finditer(r"\s?\S+", text):
        begin, end = match.span()
        found += [(place, min(place + 4, end)) for place in range(begin, end, 4)]
    return found


def byte_spans(text: str) -> list[tuple[int, int]]:
    """Three tokens for every character, all over its own place, as byte-level tokenizers give for rare ones."""
    return [(place, place + 1) for place, letter in enumerate(text) for _ in range(1 if letter.isspace() else 3)]
