import itertools
import random
import time

import pytest
from counted_search import CountedSearch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_spans import byte_spans, four_letter_spans

from llama2vec.data.documents.document import Block, Document
from llama2vec.data.documents.splitting import Splitter, passage_id, title_path, whole_passage
from llama2vec.data.settings import PassageSettings
from llama2vec.data.text.cutting import TokenSpans
from llama2vec.data.text.words import word_spans
from llama2vec.data.text.words import word_spans as signs_and_words
from llama2vec.errors import ConfigError
from llama2vec.records import Passage, Place

TOKENS: dict[str, TokenSpans] = {
    "words": word_spans,
    "signs": signs_and_words,
    "four": four_letter_spans,
    "bytes": byte_spans,
}
WORDS = st.sampled_from(
    ["a", "crane", "flies.", "It", "hums!", "(why?)", "1.5", "羊驼毛。", "x" * 30, "y" * 50, "\nnext", "\n\nNew"]
)
BODIES = st.lists(WORDS, min_size=1, max_size=40).map(" ".join)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Documents with blocks of every kind, pages that begin in between, and blank text."""
    blocks: list[Block] = []
    text, page, path = draw(st.sampled_from(["", "\n \n"])), draw(st.sampled_from([None, 1])), ()
    for number in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["text", "text", "heading", "table", "code"]))
        if kind == "heading":
            path = (*path[: draw(st.integers(0, 2))], f"Part {number}")
        begin = len(text) if blocks else 0
        body = path[-1] if kind == "heading" else draw(BODIES)
        text += draw(st.sampled_from([f"{body}\n\n", f"{body}\n", " \n"]))
        page = page and page + draw(st.sampled_from([0, 0, 1, 2]))
        blocks.append(Block(begin, len(text), kind, path, page))
    lines = draw(st.sampled_from(["file", "page", "none"]))
    return Document("d", text, draw(st.sampled_from(["", "Guide", "A guide of many words"])), tuple(blocks), lines)


SETTINGS = st.integers(8, 40).flatmap(
    lambda tokens: st.builds(PassageSettings, tokens=st.just(tokens), overlap=st.integers(0, tokens // 2))
)


def page_of(document: Document, character: int) -> int | None:
    return next((block.page for block in document.blocks if block.begin <= character < block.end), None)


def placed(passage: Passage) -> Place:
    assert passage.place is not None
    return passage.place


@settings(max_examples=200, deadline=None)
@given(documents(), SETTINGS, st.sampled_from(sorted(TOKENS)))
def test_passages_cover_the_document_point_at_it_and_fit(
    document: Document, chosen: PassageSettings, kind: str
) -> None:
    spans = TOKENS[kind]
    splitter = Splitter(chosen, spans)
    found = list(splitter.split(document))
    assert list(splitter.split(document)) == found
    assert [one.id for one in found] == (["d"] if len(found) == 1 else [f"d#{n + 1}" for n in range(len(found))])
    covered = {character for one in found for character in range(placed(one).begin, placed(one).end)}
    assert all(character in covered or letter.isspace() for character, letter in enumerate(document.text))
    for one in found:
        place = placed(one)
        assert one.text == document.text[place.begin : place.end] == one.text.strip()
        # A single character that is more tokens than fit is left to the encoder.
        assert len(spans(one.full_text)) <= splitter.tokens or len(one.text) <= 1
        if one.text:
            assert {page_of(document, place.begin)} == {page_of(document, place.end - 1)} == {place.page}
        page_begin = 0
        if document.lines == "page" and place.page is not None:
            page_begin = min(block.begin for block in document.blocks if block.page == place.page)
        line = 1 + document.text.count("\n", page_begin, place.begin)
        assert place.first_line == (None if document.lines == "none" else line)
        assert place.last_line == (None if document.lines == "none" else line + one.text.count("\n"))


@settings(max_examples=200, deadline=None)
@given(documents(), SETTINGS)
def test_passages_repeat_at_most_the_overlap_and_follow_each_other(document: Document, chosen: PassageSettings) -> None:
    places = [placed(one) for one in Splitter(chosen, word_spans).split(document)]
    for one, following in itertools.pairwise(places):
        assert one.begin < following.begin
        assert one.end < following.end
        if following.begin < one.end:
            assert len(word_spans(document.text[following.begin : one.end])) <= (chosen.overlap or 0)
        else:
            assert not document.text[one.end : following.begin].strip()
    if not chosen.overlap and document.text.strip():
        joined = "".join("".join(document.text[place.begin : place.end].split()) for place in places)
        assert joined == "".join(document.text.split())


@settings(max_examples=200, deadline=None)
@given(documents(), SETTINGS)
def test_tables_and_code_stay_whole_where_they_fit(document: Document, chosen: PassageSettings) -> None:
    splitter = Splitter(chosen, word_spans)
    places = [placed(one) for one in splitter.split(document)]
    for block in document.blocks:
        text = document.text[block.begin : block.end]
        # With the longest title, and as much text before it as is too little for a passage.
        room = splitter.tokens - 2 * (splitter.tokens // 4)
        if block.kind in ("table", "code") and text.strip() and len(word_spans(text)) <= room:
            begin = block.begin + len(text) - len(text.lstrip())
            end = block.begin + len(text.rstrip())
            assert any(place.begin <= begin and end <= place.end for place in places)


def a_document(*parts: tuple[str, str], title: str = "", pages: tuple[int, ...] = ()) -> Document:
    """Return a document of (kind, text) blocks; ``h1`` … are headings."""
    text, blocks, path = "", list[Block](), tuple[str, ...]()
    for number, (kind, body) in enumerate(parts):
        if kind.startswith("h"):
            path = (*path[: int(kind[1:]) - 1], body)
        page = pages[number] if pages else None
        begin, text = len(text), f"{text}{body}\n\n"
        name = "heading" if kind.startswith("h") else kind
        assert name in ("heading", "text", "table", "code")
        blocks.append(Block(begin, len(text), name, path, page))  # type: ignore[arg-type]
    return Document("guide.md", text, title, tuple(blocks))


def words(count: int, name: str = "w") -> str:
    return " ".join(f"{name}{number}" for number in range(count))


def cut(document: Document, tokens: int, overlap: int = 0) -> list[Passage]:
    return list(Splitter(PassageSettings(tokens=tokens, overlap=overlap), word_spans).split(document))


def test_a_passage_ends_at_a_heading_and_has_the_path_to_it_as_title() -> None:
    document = a_document(
        ("h1", "Guide"), ("text", words(8)), ("h2", "Install"), ("h3", "Linux"), ("text", words(9, "l")), ("h3", "Mac"),
        ("text", words(9, "m")), title="Guide",
    )  # fmt: skip
    found = cut(document, 24)
    assert [(one.title, one.text.split("\n")[0]) for one in found] == [
        ("Guide", "Guide"), ("Guide › Install › Linux", "Install"), ("Guide › Install › Mac", "Mac")
    ]  # fmt: skip
    assert [(placed(one).first_line, placed(one).last_line) for one in found] == [(1, 3), (5, 9), (11, 13)]


def test_a_section_of_a_few_words_joins_the_next_and_the_last_one_the_one_before() -> None:
    document = a_document(
        ("h1", "A"), ("text", "few words"), ("h1", "B"), ("text", words(10)), ("h1", "C"), ("text", "the end"),
    )  # fmt: skip
    (only,) = cut(document, 24)
    assert only.text == document.text.strip()
    assert only.id == "guide.md"


def test_a_long_section_is_cut_after_a_paragraph_then_a_sentence_then_a_line_then_a_word() -> None:
    paragraphs = a_document(("text", f"{words(12)}\n\n{words(12, 'x')}"))
    assert [len(one.text.split()) for one in cut(paragraphs, 20)] == [12, 12]
    sentences = a_document(("text", f"{words(11)} end. New {words(11, 'x')}"))
    assert [len(one.text.split()) for one in cut(sentences, 20)] == [12, 12]
    lines = a_document(("text", f"{words(12)}\n{words(12, 'x')}"))
    assert [len(one.text.split()) for one in cut(lines, 20)] == [12, 12]
    assert [len(one.text.split()) for one in cut(a_document(("text", words(30))), 20)] == [20, 10]


def test_no_passage_of_a_few_words_is_left_at_the_end_of_a_section() -> None:
    assert [len(one.text.split()) for one in cut(a_document(("text", words(22))), 20)] == [17, 5]


def test_a_page_ends_a_passage_and_nothing_is_repeated_across_it() -> None:
    document = a_document(("text", words(9)), ("text", "one"), ("text", words(9)), pages=(1, 2, 5))
    found = cut(document, 8, overlap=4)
    assert [placed(one).page for one in found] == [1, 1, 2, 5, 5]
    assert [one.text.split()[0] for one in found] == ["w0", "w3", "one", "w0", "w3"]


def test_a_table_that_fits_moves_to_the_next_passage_as_a_whole() -> None:
    table = "| a | b |\n| 1 | 2 |"
    found = cut(a_document(("text", words(12)), ("table", table), ("text", words(12))), 20, overlap=4)
    assert found[0].text == words(12)
    assert found[1].text == f"w8 w9 w10 w11\n\n{table}"


def test_a_table_that_does_not_fit_is_cut_between_rows() -> None:
    rows = "\n".join(f"| {number} | two |" for number in range(9))
    found = cut(a_document(("table", rows)), 22)
    assert all(one.text.startswith("|") and one.text.endswith("|") for one in found)
    assert "\n".join(one.text for one in found) == rows


def test_the_overlap_begins_with_a_sentence_where_one_does() -> None:
    text = " ".join(f"{words(4, letter)} end." for letter in "abcdefgh")
    found = cut(a_document(("text", text.replace(". ", ". The "))), 24, overlap=8)
    assert [one.text.split()[0] for one in found] == ["a0", "The", "The"]
    assert found[0].text.endswith("end.")
    assert found[1].text.split(".")[0] + "." in found[0].text


def test_no_passage_begins_inside_of_a_word_and_signs_without_spaces_are_repeated() -> None:
    def by_two(text: str) -> list[tuple[int, int]]:
        return [(place, min(place + 2, len(text))) for place in range(0, len(text), 2)]

    code = "first=file.peek(_LOOKED_AT)[:_LOOKED_AT];second=tokenizer.encode_passages(passages)" * 4
    found = list(Splitter(PassageSettings(tokens=24, overlap=6), by_two).split(Document("d", code)))
    assert len(found) > 5
    for one in found[1:]:
        assert one.place
        before, first = code[one.place.begin - 1 : one.place.begin + 1]
        assert not (before.isalnum() and first.isalnum()), one.text
    signs = "羊驼生活在山上" * 20
    parts = [one.text for one in Splitter(PassageSettings(tokens=24, overlap=6), by_two).split(Document("d", signs))]
    assert sum(map(len, parts)) > len(signs)


def test_text_without_spaces_is_cut_after_its_sentences() -> None:
    text = "羊驼生活在山上。" * 40
    found = cut_by_letters(text, 30)
    assert "".join(one.text for one in found) == text
    assert {len(one.text) for one in found[:-1]} == {24}
    assert max(len(one.text) for one in cut_by_letters("x" * 5000, 30)) == 30


def cut_by_letters(text: str, tokens: int) -> list[Passage]:
    settings = PassageSettings(tokens=tokens, overlap=0)
    return list(Splitter(settings, lambda piece: [(n, n + 1) for n in range(len(piece))]).split(Document("d", text)))


def test_the_time_for_a_long_document_grows_with_its_length() -> None:
    draw = random.Random(0)
    taken = []
    for size in (20_000, 80_000):
        text = " ".join(draw.choice(["crane", "hums.", "It", "is\n\n"]) for _ in range(size))
        started = time.process_time()
        assert len(cut(Document("d", text), 100, overlap=10)) > size / 110
        taken.append(time.process_time() - started)
    assert taken[1] < 12 * taken[0] + 0.2


def test_an_unsplit_document_is_one_passage_with_its_place() -> None:
    document = Document("a b.txt", "\nOne.\nTwo.\n", "Title", fields={"year": 2020})
    expected = Passage("a%20b.txt", "One.\nTwo.", "Title", Place("a b.txt", 1, 10, 2, 3), {"year": 2020})
    assert whole_passage(document) == expected
    assert list(Splitter(PassageSettings(split="never"), word_spans).split(document)) == [expected]
    assert passage_id("a\tb") == "a%09b"


def test_a_document_without_text_is_one_empty_passage() -> None:
    (only,) = cut(Document("d", " \n", "Title"), 8)
    assert (only.id, only.text, only.title) == ("d", "", "Title")


def test_a_row_is_cut_only_where_it_does_not_fit_and_its_parts_know_where_they_stand() -> None:
    splitter = Splitter(PassageSettings(tokens=12, overlap=0), word_spans)
    short = Passage("r", words(10), "Title", fields={"year": 1})
    assert list(splitter.split_row(short)) == [short]
    first, second = splitter.split_row(Passage("r", words(18), "Title", fields={"year": 1}))
    assert (first.id, first.title, first.fields, second.id) == ("r#1", "Title", {"year": 1}, "r#2")
    assert second.place == Place("r", len(first.text) + 1, len(words(18)))
    titled = Passage("r", "", words(18))
    assert list(splitter.split_row(titled)) == [titled]
    placed_row = Passage("m#3", words(18), place=Place("m.pdf", 100, 100 + len(words(18)), 7, 9, 2))
    part = list(splitter.split_row(placed_row))[1]
    assert part.place == Place("m.pdf", 100 + len(words(18)) - len(part.text), 100 + len(words(18)), page=2)


@pytest.mark.parametrize(
    ("most", "path"),
    [
        (9, "Guide › Install it › From source › Linux"),
        (8, "Guide › … › From source › Linux"),
        (5, "Guide › … › Linux"),
        (2, "Linux"),
        (0, ""),
    ],
)
def test_a_long_title_path_loses_its_middle_then_its_beginning(most: int, path: str) -> None:
    assert title_path("Guide", ("Guide", "Install  it", "From source", "Linux"), most, word_spans) == path


def test_a_title_path_without_anything_is_empty() -> None:
    assert title_path("", (), 5, word_spans) == ""
    assert title_path(" ", ("", "One two three"), 2, word_spans) == "One two"


def test_lengths_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="passages of 40 tokens are longer than the 32 that the model reads"):
        Splitter(PassageSettings(tokens=40), word_spans, reads=32)
    with pytest.raises(ConfigError, match="an overlap of 20 tokens is more than half of a passage of 32"):
        Splitter(PassageSettings(overlap=20), word_spans, reads=32)
    with pytest.raises(ValueError, match="more than half of tokens"):
        PassageSettings(tokens=40, overlap=21)
    assert Splitter(PassageSettings(), word_spans, reads=32).tokens == 32
    assert Splitter(PassageSettings(), word_spans, reads=512).tokens == 256


CHINESE = "\n\n".join(
    f"第{number}段：羊驼生活在安第斯山脉的高原上，身上的毛又厚又软，可以抵御寒冷。" for number in range(100)
)


@pytest.mark.parametrize("text", [CHINESE, "ลามะเป็นสัตว์เลี้ยงในอเมริกาใต้ " * 200])
def test_without_a_model_each_sign_counts_and_so_do_the_words_of_a_script_without_spaces(text: str) -> None:
    document = Document("d", text)
    splitter = Splitter.of_words(PassageSettings())
    found = list(splitter.split(document))
    assert len(found) > 4
    assert max(len(splitter.token_spans(one.full_text)) for one in found) <= 256
    assert list(splitter.split_row(Passage("d", text)))[1:]
    assert splitter.plan["tokenizer"] != Splitter(PassageSettings(), word_spans).plan["tokenizer"]


def test_without_a_model_passages_of_a_script_with_spaces_hold_as_many_words_as_they_did() -> None:
    document = Document("d", "The crane “flies” over the café — it hums, doesn't it?\n\n" * 200)
    chosen = PassageSettings()
    assert list(Splitter.of_words(chosen).split(document)) == list(Splitter(chosen, word_spans).split(document))


def test_a_text_without_spaces_is_looked_at_once_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountedSearch()
    monkeypatch.setattr("llama2vec.data.documents.splitting.NON_SPACE", counted)
    text = CHINESE.replace("\n\n", "") * 3
    assert len(list(Splitter(PassageSettings(tokens=16, overlap=0), word_spans).split(Document("d", text)))) > 500
    assert 500 < counted.characters < len(text)


def test_without_a_model_minified_code_is_cut_into_passages_of_about_eight_characters_a_word() -> None:
    text = '{"id":17,"animal":"llama","lives":["Peru","Chile"]},' * 400
    document = Document("d", f"Our animals are {text} and others.")
    found = list(Splitter.of_words(PassageSettings(tokens=64, overlap=0)).split(document))
    assert "".join(one.text.replace(" ", "") for one in found) == document.text.replace(" ", "")
    assert len(found) >= len(text) / (64 * 8 + 32)
    assert max(len(one.text) for one in found) <= 64 * 8 + 32
    assert Splitter.of_words(PassageSettings()).plan["tokenizer"] == "words-4"
