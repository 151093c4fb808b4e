"""Texts that are longer than a model reads: how many there are, and the warning that says so."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from llama2vec.records import Side
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

Noun = tuple[str, str]
"""One and several of what is read."""
QUERIES: Noun = ("query", "queries")
PASSAGES: Noun = ("passage", "passages")
NOUNS: Mapping[Side, Noun] = MappingProxyType({"query": QUERIES, "passage": PASSAGES})


class Cut(NamedTuple):
    """How many of some texts a model reads only the beginning of."""

    texts: int  # Those that are longer
    most: int  # Tokens that it reads of each
    fixed: bool = True  # Whether no setting can raise that


def warn_of_cut(where: str, cut: int, total: int, rest: str, noun: Noun = PASSAGES) -> None:
    """Warn of texts that are longer than the model reads, and say what that means for the rest of each.

    Args:
        where: Where they come from; "" = it need not be said.
        cut: How many are longer; 0 = there is nothing to say.
        total: How many there are.
        rest: The end of the sentence, after "the rest of each".
        noun: What they are.
    """
    if cut:
        what = f"{cut:,} of {counted(total, *noun)} ({100 * cut / total:.3g} %)"
        whose = "the rest of each"
        if total == 1:
            what, whose = f"the {noun[0]}", "its rest"
        start = f"{where}: " if where else ""
        logger.warning("%sthe model reads only the beginning of %s, and %s %s", start, what, whose, rest)


def warn_of_limit(cut: Cut, total: int, remedy: str, *, noun: Noun = QUERIES, where: str = "") -> None:
    """Warn of texts that are longer than a model reads, with its limit, as :func:`warn_of_cut` does.

    ``remedy`` says how to raise the limit; it is left out where nothing can.
    """
    how = f"the model cannot read more, so shorten {'it' if total == 1 else 'them'}" if cut.fixed else remedy
    warn_of_cut(where, cut.texts, total, f"after {counted(cut.most, 'token')} is not in its vector; {how}", noun)
