import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2vec.data.text.cutting import Cutter, shortened
from llama2vec.data.text.words import word_spans


def letter_spans(text: str) -> list[tuple[int, int]]:
    return [(place, place + 1) for place, letter in enumerate(text) if not letter.isspace()]


TEXTS = st.text("ab \n", max_size=60) | st.lists(st.sampled_from(["a", "b" * 50, " ", "\n"]), max_size=12).map("".join)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 12), st.integers(0, 5), st.sampled_from(["", "ab "]))
def test_the_longest_part_fits_and_one_more_word_would_not(text: str, tokens: int, beyond: int, head: str) -> None:
    tokens += len(word_spans(head))
    cutter = Cutter(text, tokens, word_spans)
    view = cutter.view(0, head, beyond=beyond)
    end = cutter.longest(view)
    assert len(word_spans(head + text[:end])) <= tokens
    if rest := word_spans(text[end:]):
        # A run that counts as several words is cut only where it begins the part.
        length = rest[0][1] if cutter.inside_word(end) else len(text[end:]) - len(text[end:].lstrip().lstrip("ab"))
        assert len(word_spans(head + text[: end + length])) > tokens
    assert view.stop == len(text) or len(view.spans) > tokens + beyond
    for place in range(view.stop + 1):
        whole = not cutter.inside_word(place)
        assert not whole or view.count(place) == len(word_spans(head + text[:place]))


def test_a_view_ends_where_it_is_told_to() -> None:
    view = Cutter("one two three four", 3, word_spans).view(4, until=13)
    assert (view.stop, [view.place(number) for number in range(2)]) == (13, [4, 8])


def test_a_run_without_a_space_is_cut_between_tokens() -> None:
    cutter = Cutter("a" * 2000, 5, letter_spans)
    assert cutter.longest(cutter.view(100)) == 105


@pytest.mark.parametrize(("most", "title"), [(3, "one two three"), (2, "one two"), (0, "")])
def test_a_title_is_shortened_at_its_end(most: int, title: str) -> None:
    assert shortened(" one two three ", most, word_spans) == title
