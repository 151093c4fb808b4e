"""Found passages: grouping by document, where they stand, and the evidence."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from counting_encoder import CountingEncoder

from llama2vec.data.documents.windows import document_id, max_passage
from llama2vec.data.text.words import word_key
from llama2vec.records import Passage, Place, Run
from llama2vec.retrieve.search.hits import (
    Hit,
    TellingWords,
    as_row,
    best_line,
    continues_line,
    corpus_folder,
    document_file,
    evidence,
    excerpt,
    grouped,
    location,
    neighbors,
    snippet,
    spot,
    with_beginnings,
)
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store

DOCUMENT = "One llama. Two llamas. Three alpacas. Four camels."
SPANS = ((0, 22), (11, 37), (23, 50))


def part(number: int, document: str = "a.md") -> Passage:
    begin, end = SPANS[number]
    return Passage(f"{document}#{number + 1}", DOCUMENT[begin:end], place=Place(document, begin, end))


def store_of(passages: Sequence[Passage], folder: Path) -> VectorStore:
    return write_store(lambda: passages, CountingEncoder(), folder, source={}, shard_size=2)


def store_with(source: Mapping[str, object]) -> VectorStore:
    settings = {"dimension": 1, "contract_hash": "c", "source": source, "dtype": "float32"}
    return VectorStore(Path("nowhere"), {"settings": settings, "shards": [], "passages": 0})


def test_the_folder_of_the_documents_is_the_one_that_the_store_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "guide.md").write_text("text")
    assert corpus_folder(store_with({"corpus": str(folder)})) == folder.resolve()
    assert corpus_folder(store_with({"corpus": "hf:x", "folder": str(folder)})) == folder.resolve()
    # An index may follow one file.
    assert corpus_folder(store_with({"folder": str(folder / "guide.md")})) == folder.resolve()
    for source in ({"corpus": str(folder / "guide.md")}, {"corpus": "hf:x"}, {}):
        assert corpus_folder(store_with(source)) is None
    monkeypatch.chdir(folder.parent)
    assert corpus_folder(store_with({"corpus": folder.name})) == folder.resolve()


def test_a_document_stands_where_its_best_passage_does() -> None:
    order = [part(2), part(0, "b.md"), Passage("a.md", "a row whose id is a path"), part(0), part(1, "b.md"), part(1)]
    hits = [Hit(rank, 10.0 - rank, passage, row=rank) for rank, passage in enumerate(order, start=1)]
    found = grouped(hits)
    assert [(hit.rank, hit.passage.id, [more.passage.id for more in hit.more]) for hit in found] == [
        (1, "a.md#3", ["a.md#1", "a.md#2"]), (2, "b.md#1", ["b.md#2"]), (3, "a.md", []),
    ]  # fmt: skip
    assert [hit.score for hit in found] == [9.0, 8.0, 7.0]
    assert grouped(hits, 1) == found[:1]
    assert [len(hit.more) for hit in grouped(hits, near=4)] == [1, 0, 0]
    assert grouped([]) == []


def test_neighbors_are_of_the_same_document_and_repeat_nothing(tmp_path: Path) -> None:
    store = store_of([part(0), part(1), part(2), part(0, "b.md"), Passage("row", "plain")], tmp_path)
    assert [passage.text for passage in neighbors(store, 1)] == [
        "One llama. ",
        "Two llamas. Three alpacas.",
        " Four camels.",
    ]
    assert "".join(passage.text for passage in neighbors(store, 0, reach=5)) == DOCUMENT
    assert "".join(passage.text for passage in neighbors(store, 2, reach=5)) == DOCUMENT
    assert [passage.id for passage in neighbors(store, 2)] == ["a.md#2", "a.md#3"]
    assert [passage.id for passage in neighbors(store, 3, reach=9)] == ["b.md#1"]
    assert [passage.id for passage in neighbors(store, 4)] == ["row"]


def test_a_passage_inside_a_line_is_known_by_the_one_before_it(tmp_path: Path) -> None:
    text = "# Llamas\n\nOne llama. Two llamas.\nThree alpacas. Four camels."
    cuts = [(0, 20), (21, 32), (33, 47), (38, 60)]  # the last one repeats a part of the one before it
    passages = [
        Passage(f"a.md#{number}", text[begin:end],
                place=Place("a.md", begin, end, text.count("\n", 0, begin) + 1, text.count("\n", 0, end - 1) + 1))
        for number, (begin, end) in enumerate(cuts, start=1)
    ]  # fmt: skip
    passages += [Passage("b.md#1", "One.", place=Place("b.md", 0, 4, 4, 4)), Passage("row", "plain")]
    store = store_of(passages, tmp_path)
    hits = with_beginnings(store, [Hit(1, 1.0, passage, row) for row, passage in enumerate(passages)])
    assert [hit.continues for hit in hits] == [False, True, False, True, False, False]
    assert [excerpt(hit, "llama") for hit in hits[1:3]] == ["…Two llamas.", "Three alpacas."]
    # A line that an overlap begins with is whole.
    overlap = Passage("a.md#5", text[33:60], place=Place("a.md", 33, 60, 4, 4))
    before = Passage("a.md#4", text[21:47], place=Place("a.md", 21, 47, 3, 4))
    assert not continues_line(overlap, before)
    # Pages count their lines anew, and a text without lines tells nothing.
    pages = [Passage(str(page), "llama", place=Place("a.pdf", page, page + 1, 1, 1, page=page)) for page in (1, 2)]
    assert not continues_line(pages[1], pages[0])
    assert not continues_line(part(2), Passage("x", "llama", place=Place("a.md", 0, 22)))


@pytest.mark.parametrize(
    ("place", "expected", "short"),
    [
        (Place("a b.md", 0, 5, 7, 9), "a b.md:8", "line 7"),
        (Place("a.md", 0, 5, 7, 7), "a.md:7", "line 7"),
        (Place("a.pdf", 0, 5, 1, 3, page=12), "a.pdf:12:2", "p. 12"),
        (Place("a.pdf", 0, 5, page=12), "a.pdf:12", "p. 12"),
        (Place("a.docx", 0, 5), "a.docx", "x#1"),
        (None, "x#1", "x#1"),
    ],
)
def test_a_location_is_as_exact_as_the_place(place: Place | None, expected: str, short: str) -> None:
    passage = Passage("x#1", "The title\nThe llama carries.\nThe end, llama.", place=place)
    assert location(passage, "What does a llama carry?") == expected
    assert spot(passage) == short


def test_the_line_is_the_one_with_the_most_words_of_the_question() -> None:
    passage = Passage("x", "llama llama\nhow the\nLLAMA wool\nwool", place=Place("x", 0, 9, 10, 13))
    assert best_line(passage, "how is the wool of the llama?") == 12
    assert best_line(passage, "zebra") == best_line(passage, "") == 10
    assert best_line(Passage("x", "text"), "text") is None


@pytest.mark.parametrize(
    ("text", "question", "words"),
    [
        ("The wing and its wings, delayed.", "which wing delays it", ["wing", "wings", "delayed"]),
        ("the of and", "the of", ["the", "of"]),
        ("Café CAFÉ", "ＣＡＦÉ", ["Café", "CAFÉ"]),
        ("GPU版本的羊驼模型", "的羊驼", ["的羊驼"]),
        ("car carpet cart", "car", ["car"]),
        ("nothing here", "zebra", []),
    ],
)
def test_evidence_is_the_telling_words_with_other_endings(text: str, question: str, words: list[str]) -> None:
    assert [text[begin:end] for begin, end in evidence(text, question)] == words


@pytest.mark.parametrize("width", [1, 2, 20, 60, 240])
@pytest.mark.parametrize("text", ["word " * 100, "x" * 500, "llama. " * 80, "字" * 300, "a llama " + "b " * 200])
def test_a_snippet_is_never_longer_than_asked(text: str, width: int) -> None:
    assert len(snippet(text, "llama word", width).rstrip("…")) <= width
    assert len(snippet(text, "llama", max(width, 3))) <= max(width, 3)


def test_a_snippet_of_a_script_without_spaces_is_cut_between_signs() -> None:
    text = "一 " + "骆驼在沙漠里行走。" * 20 + "羊驼在安第斯山脉背负重物。" + "骆驼在沙漠里行走。" * 20
    part = snippet(text, "安第斯的羊驼", 40)
    assert "羊驼在安第斯山脉" in part
    assert 38 <= len(part) <= 40


def test_a_snippet_prefers_different_words_to_repeated_ones() -> None:
    text = "llama llama llama " + "filler " * 60 + "The llama lives in Peru. " + "filler " * 60
    assert "llama lives in Peru" in snippet(text, "Where does the LLAMA live in peru?", 60)


def test_a_snippet_finds_words_in_another_unicode_form() -> None:
    text = unicodedata.normalize("NFD", "filler " * 60 + "Das Café am Fluß. " + "filler " * 60)
    assert "Café am Fluß" in snippet(text, "ＣＡＦÉ", 60)


def test_a_snippet_counts_the_words_of_the_question_and_not_their_endings_or_little_words() -> None:
    text = "Packs and a pack, packed: how they do. " + "filler " * 60 + "They carry a pack. " + "filler " * 60
    assert "carry a pack" in snippet(text, "how do they carry a pack", 60)


QUESTIONS = (
    (
        "Wie hoch ist die Miete in der Wohnung?",
        "Die Schlüssel sind in der Schublade, die in der Küche ist, und das Formular ist bei der Verwaltung, die es in "
        "der Mappe hat.",
        "Miete beträgt 800 Euro.",
    ),
    (
        "Какая плата за квартиру и что это?",
        "Это не то, что было раньше, и за это не надо что-то делать, если это так, как было до того, и что это и за.",
        "Месячная плата — 800 евро.",
    ),
    (
        "Quel est le montant du loyer dans la maison ?",
        "Il est dans le dossier que la dame a mis dans la boîte, et le reste est dans la cave du voisin, qui est là.",
        "Loyer mensuel : 800 euros.",
    ),
    (
        "Jaki jest czynsz i do kiedy jest?",
        "Ten klucz jest w szafie i jest do drzwi, a drugi jest u sąsiada i do kiedy tam jest, nie wiadomo, jaki jest.",
        "Miesięczny czynsz 800 euro.",
    ),
)


@pytest.mark.parametrize(("question", "around", "answer"), QUESTIONS)
def test_the_little_words_of_no_language_lead_away_from_the_answer(question: str, around: str, answer: str) -> None:
    filler = "\n".join([around.replace(" ", "  "), " ".join(["0"] * 60), answer, " ".join(["0"] * 60)])
    assert answer in snippet(filler, question, 60)
    assert best_line(Passage("x", filler, place=Place("x", 0, 9, 10, 13)), question) == 12
    marked = {answer[begin:end] for begin, end in evidence(answer, question, filler)}
    assert len(marked) == 1
    assert not evidence(around, question, filler)
    words = as_row(Hit(1, 1.0, Passage("x", filler)), question)["words"]
    assert 1 <= len(words) <= 3
    assert {word_key(word)[:4] for word in marked} <= {word_key(word)[:4] for word in words}


def test_the_capitals_of_turkish_are_marked() -> None:
    for text, question in (("IŞIK", "ışık"), ("ışık", "IŞIK"), ("İzmir", "izmir"), ("IŞIK", "işik")):
        assert evidence(text, question) == [(0, len(text))]


@pytest.mark.parametrize("seed", range(5))
def test_grouped_answers_are_ranked_as_an_evaluation_scores_documents(seed: int) -> None:
    draw = random.Random(seed)
    scores = {f"d{draw.randrange(6)}#{number}": draw.choice([0.25, 0.5, 0.75, draw.random()]) for number in range(40)}
    ranked = Run({"q": scores}).ranking("q")
    hits = [
        Hit(rank, score, Passage(part, "", place=Place(document_id(part), 0, 1)))
        for rank, (part, score) in enumerate(ranked, start=1)
    ]
    expected: dict[str, float] = {}
    for part, score in ranked:
        expected.setdefault(document_id(part), score)  # what both did before they shared their code
    found = grouped(hits)
    assert [(hit.passage.place.document, hit.score) for hit in found if hit.passage.place] == list(expected.items())
    assert max_passage(Run({"q": scores})).results == {"q": expected}
    for hit in found:
        assert [other.rank for other in (hit, *hit.more)[1:]] == sorted(other.rank for other in hit.more)
    assert sum(1 + len(hit.more) for hit in found) == len(hits)


def alike_by_letters(word: str, other: str) -> bool:
    """The rule, letter by letter: the same but for endings of at most three letters."""
    shorter = min(len(word), len(other))
    common = next((place for place in range(shorter) if word[place] != other[place]), shorter)
    shortest = 4 if common == shorter else 5
    return word == other or (common >= shortest and max(len(word), len(other)) - common <= 3)


def test_words_are_alike_by_their_letters_whatever_their_number() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choice("ab") for _ in range(draw.randrange(1, 11))) for _ in range(400)]
    for asked in (words[:5], words[5:30], words[30:150]):
        telling = TellingWords(" ".join(asked))
        known = list(dict.fromkeys(one for one in asked if one != "a")) or asked
        for word in words:
            expected = next((one for one in known if alike_by_letters(word, one)), None)
            assert telling.alike(word) == expected, (word, known)


def test_the_length_of_a_question_does_not_multiply_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    monkeypatch.setattr("llama2vec.retrieve.search.hits.word_key", lambda text: keys.append(text) or text.casefold())
    question = " ".join(f"word{number}" for number in range(2000))
    passage = Passage("x", "\n".join(["llama " * 30] * 10), place=Place("x", 0, 9, 1, 10))
    assert best_line(passage, question) == 1
    # The words of the question once, and each word of the text once.
    assert len(keys) == 2000 + 300


@pytest.mark.parametrize(
    ("text", "question", "found"),
    [
        ("मेज़ पर किताब रखी है", "किताब", ["किताब"]),
        ("الكِتَابُ عَلَى الطَّاوِلَةِ", "الكتاب", ["الكِتَابُ"]),
        ("İstanbul güzel", "istanbul", ["İstanbul"]),
        ("แมวชอบกินปลา", "ปลา", ["ปลา"]),
        ("งูกินปลา", "งู", ["งู"]),
    ],
)
def test_evidence_is_whole_words_of_the_text_as_it_stands(text: str, question: str, found: list[str]) -> None:
    assert [text[begin:end] for begin, end in evidence(text, question)] == found


def test_a_snippet_of_a_script_without_spaces_is_cut_between_letters_and_never_before_a_mark() -> None:
    text = "ชีวิตที่ดี " + "กินปลาที่นี่" * 20 + "งู" + "กินปลาที่นี่" * 20
    for width in range(20, 40):
        found = snippet(text, "งู", width)
        assert "งู" in found
        assert width - 8 <= len(found) <= width
        inner = found.strip("…")
        assert unicodedata.category(inner[0]) != "Mn"
        assert unicodedata.category(text[text.index(inner) + len(inner)]) != "Mn"


def test_the_file_of_a_document_is_the_longest_name_before_a_row_or_a_member(tmp_path: Path) -> None:
    for name in ("box.mbox", "faq#2.csv", "c#/guide.md", "hey!.zip", "a.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    files = {
        "box.mbox#3!report.pdf": "box.mbox", "box.mbox#3!all.zip!book.xlsx!Sheet1#7": "box.mbox",
        "faq#2.csv#12": "faq#2.csv", "faq#2.csv": "faq#2.csv", "faq#2.csv#id#with#marks!": "faq#2.csv",
        "c#/guide.md": "c#/guide.md", "hey!.zip!a#b.md": "hey!.zip", "a.zip!rows.jsonl#k!ey": "a.zip",
        f"a.zip!{'long' * 99}": "a.zip", "a.zip!nul\0": "a.zip",
    }  # fmt: skip
    assert {name: document_file(tmp_path, name) for name in files} == {
        name: tmp_path / file for name, file in files.items()
    }
    for name in ("gone.zip!a.md", "c#x", "../box.mbox#1", f"{tmp_path}/box.mbox#1", "#1", "!a"):
        assert document_file(tmp_path, name) is None


def test_a_hit_names_the_words_of_the_question_that_it_holds_even_where_they_are_little_in_another_language() -> None:
    passage = Passage("x", "Mode: eco; fan: high; lamp: off", title="Dryer")
    assert as_row(Hit(1, 1.0, passage), "mode of the dryer " + "llama " * 50)["words"] == ["mode", "dryer"]
