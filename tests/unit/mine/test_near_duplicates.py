"""Near-duplicates: the shingles of texts with and without spaces."""

from __future__ import annotations

import pytest

from llama2vec.mine.near_duplicates import containment, shingles
from llama2vec.retrieve.words import is_sign


@pytest.mark.parametrize("sign", ["あ", "カ", "㐀", "羊", "한", "豈", "\U00020bb7"])
def test_every_sign_that_bm25_pairs_is_a_word_of_its_own(sign: str) -> None:
    assert is_sign(sign)
    # Seven words have three different runs of five.
    assert len(shingles(f"abc{sign}def{sign}ghi{sign}jkl")) == 3


def test_a_text_without_spaces_holds_the_part_cut_out_of_it() -> None:
    whole = "𠮷野家の牛丼は安くて早くて旨い"

    assert containment(shingles(whole), shingles(whole[3:])) == 1
    assert containment(shingles(whole), shingles("羊驼是南美洲的一种家畜")) == 0
