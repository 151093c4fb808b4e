from __future__ import annotations

import pytest

from llama2vec.languages import check_language


def test_codes_of_two_letters_are_known_ones_and_of_three_letters_any() -> None:
    assert [check_language(code) for code in ("en", "zh", "qaa")] == ["en", "zh", "qaa"]
    for code in ("xx", "EN", "english", ""):
        with pytest.raises(ValueError, match="is not an ISO 639 code"):
            check_language(code)
