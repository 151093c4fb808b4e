from __future__ import annotations

import pytest

from llama2vec.languages import check_language


def test_codes_of_two_letters_are_known_ones_and_of_three_letters_any() -> None:
    assert [check_language(code) for code in ("en", "zh", "qaa")] == ["en", "zh", "qaa"]
    for code in ("xx", "EN", "english", ""):
        with pytest.raises(ValueError, match="is not an ISO 639 code"):
            check_language(code)


def test_every_code_of_a_language_is_the_one_that_stemmers_and_stop_words_have() -> None:
    names = {
        "no": ["nb", "nn", "nob", "nno", "nor"], "de": ["deu", "ger"], "fr": ["fra", "fre"], "ru": ["rus"],
        "ja": ["jpn"], "zh": ["zho", "chi", "cmn"], "tr": ["tur"], "sq": ["sqi", "alb"],
    }  # fmt: skip
    for code, others in names.items():
        assert {check_language(other) for other in [code, *others]} == {code}
