"""The warning about texts that are longer than a model reads."""

from __future__ import annotations

import pytest

from llama2vec.model.lengths import PASSAGES, Cut, warn_of_cut, warn_of_limit


def test_the_count_the_limit_and_the_remedy_stand_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_limit(Cut(2, 128, fixed=False), 6, "raise query_max_tokens", where="beir/tiny")
    warn_of_limit(Cut(1, 128, fixed=True), 6, "raise query_max_tokens")
    warn_of_limit(Cut(1, 1, fixed=True), 1, "raise passage_max_tokens", noun=PASSAGES)
    assert caplog.messages == [
        "beir/tiny: the model reads only the beginning of 2 of 6 queries (33.3 %), and the rest of each after "
        "128 tokens is not in its vector; raise query_max_tokens",
        "the model reads only the beginning of 1 of 6 queries (16.7 %), and the rest of each after 128 tokens is not "
        "in its vector; the model cannot read more, so shorten them",
        "the model reads only the beginning of the passage, and its rest after 1 token is not in its vector; "
        "the model cannot read more, so shorten it",
    ]


def test_nothing_is_said_where_nothing_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_limit(Cut(0, 128), 6, "raise query_max_tokens")
    warn_of_cut("corpus", 0, 0, "is lost")
    assert not caplog.messages
