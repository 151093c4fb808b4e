"""One answer to the question whether two texts are the same."""

from __future__ import annotations

import unicodedata


def text_key(text: str) -> str:
    """Return what two texts share that differ only in case, white space, or Unicode form (composed, full-width).

    This is Unicode's NFKC case folding, with runs of white space as single spaces.

    >>> text_key(" The  Caf\\u0065\\u0301\\n") == text_key("the ｃafé")
    True
    """
    # The second NFKC: folding may take composed letters apart.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())
