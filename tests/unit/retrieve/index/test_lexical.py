"""BM25."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama2vec.data.text.words import is_paired
from llama2vec.errors import ConfigError, EmptyCorpusError, StoreError
from llama2vec.languages import check_language
from llama2vec.records import Passage, Query
from llama2vec.retrieve.index.lexical import (
    Bm25Index,
    new_tokenizer,
    split_normalized,
    split_words,
    term_spans,
    words_version,
)

CRANFIELD = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "cranfield"
PASSAGES = [
    Passage("a", "Llamas carry loads in the Andes.", "Llama"),
    Passage("b", "Camels carry loads in the desert."),
    Passage("c", "", ""),
    Passage("d", "The of and."),
]


def test_stems_and_titles_count_and_zero_scores_do_not() -> None:
    run = Bm25Index.build(PASSAGES).search([Query("q", "a llama carrying"), Query("r", "desert")], tag="words")
    assert run.tag == "words"
    assert [passage_id for passage_id, _ in run.ranking("q")] == ["a", "b"]
    assert list(run.results["r"]) == ["b"]
    assert list(Bm25Index.build(PASSAGES).search([Query("q", "carry")], depth=1).results["q"]) == ["b"]


@pytest.mark.parametrize("text", ["", "zebra", "the of and", "?!"])
def test_a_query_without_known_words_gets_an_empty_ranking(text: str) -> None:
    assert Bm25Index.build(PASSAGES).search([Query("q", text)]).results == {"q": {}}
    assert Bm25Index.build(PASSAGES[2:]).search([Query("q", text)]).results == {"q": {}}


def test_queries_before_do_not_change_a_ranking() -> None:
    index = Bm25Index.build(PASSAGES)
    before = index.search([Query("q", "llama load")]).results
    index.search([Query("x", "zebra loading llamas quagga")])
    assert index.search([Query("q", "llama load")]).results == before


def test_the_scores_are_those_of_lucene() -> None:
    # By hand: idf = ln(1 + (2 - 1 + 0.5) / (1 + 0.5)) = ln 2; tf = 1 / (1 + 1.2·(0.25 + 0.75·2/1.5)).
    run = Bm25Index.build([Passage("a", "llama wool"), Passage("b", "camel")]).search([Query("q", "wool")])
    assert run.results["q"]["a"] == pytest.approx(0.6931472 / 2.5)


def test_wrong_requests_are_told_in_one_line() -> None:
    with pytest.raises(EmptyCorpusError, match="no passages"):
        Bm25Index.build([])
    with pytest.raises(ConfigError, match="'klingon' is not an ISO 639 code; write en"):
        Bm25Index.build(PASSAGES, language="klingon")


@pytest.mark.parametrize(
    ("language", "passages", "question"),
    [
        ("de", ["Die Kamele tragen Lasten.", "Die Lamas auch."], "die Last"),
        ("tr", ["Kitaplar burada.", "Develer de taşır."], "bir kitap"),
        ("ru", ["Ламы носят грузы.", "Верблюды тоже."], "лама"),
        # A stemmer and no list of stop words.
        ("fi", ["Asumme talossa.", "Kamelit myös."], "talo"),
        # Neither.
        ("pl", ["Lamy noszą ładunki.", "Wielbłądy również."], "lamy"),
        ("zh", ["羊驼在安第斯山脉背负重物。", "骆驼在沙漠里行走。"], "安第斯的羊驼"),
        ("ja", ["リャマはアンデスで荷物を運ぶ。", "ラクダは砂漠を歩く。"], "アンデスのリャマ"),
        ("ko", ["라마는 안데스에서 짐을 나른다.", "낙타는 사막을 걷는다."], "안데스 라마"),
    ],
)
def test_every_language_finds_its_words(language: str, passages: list[str], question: str, tmp_path: Path) -> None:
    index = Bm25Index.build([Passage(str(n), text) for n, text in enumerate(passages)], language=language)
    best = [passage_id for passage_id, _ in index.search([Query("q", question)]).ranking("q")]
    assert best == ["0"]
    index.save(tmp_path)
    again = Bm25Index.load(tmp_path, ["0", "1"])
    assert again.search([Query("q", question)]).results == index.search([Query("q", question)]).results


def test_signs_count_by_pairs_and_other_words_beside_them_stay_whole() -> None:
    index = Bm25Index.build(
        [Passage("a", "GPU版本的羊驼模型"), Passage("b", "羊毛"), Passage("c", "猫")], language="zh"
    )
    assert list(index.search([Query("q", "羊驼")]).results["q"]) == ["a"]
    assert list(index.search([Query("q", "gpu")]).results["q"]) == ["a"]
    assert list(index.search([Query("q", "猫")]).results["q"]) == ["c"]
    assert index.search([Query("q", "驼羊")]).results["q"] == {}


@pytest.mark.skipif(not CRANFIELD.exists(), reason="the shared data sets are not here")
def test_cranfield_scores_as_published() -> None:
    ir_measures = pytest.importorskip("ir_measures")

    def passages() -> Iterator[Passage]:
        with gzip.open(CRANFIELD / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield Passage(row["_id"], row["text"], row["title"])

    with open(CRANFIELD / "queries.jsonl", encoding="utf-8") as lines:
        queries = [Query(row["_id"], row["text"]) for row in map(json.loads, lines)]
    qrels: dict[str, dict[str, int]] = {}
    with open(CRANFIELD / "qrels" / "test.tsv", encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    run = Bm25Index.build(passages()).search(queries)
    measure = ir_measures.nDCG @ 10
    # shared/data/README.md reports 0.360 with these settings.
    assert ir_measures.calc_aggregate([measure], qrels, run.results)[measure] == pytest.approx(0.360, abs=0.02)


def test_an_index_of_a_language_without_a_code_is_to_be_built_again(tmp_path: Path) -> None:
    Bm25Index.build(PASSAGES).save(tmp_path)
    facts = tmp_path / "corpus.json"
    facts.write_text(facts.read_text(encoding="utf-8").replace('"en"', '"english"'), encoding="utf-8")
    with pytest.raises(StoreError, match=r"cannot be read \(language: 'english' is not an ISO 639 .*build it again"):
        Bm25Index.load(tmp_path, ["a", "b", "c", "d"])


TEXT = "Ein Café für ＧＰＵ１２３ ﾃｽﾄ"


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_every_unicode_form_gives_the_same_words(form: str) -> None:
    text = unicodedata.normalize(form, TEXT)
    assert split_normalized(text) == ["ein", "café", "für", "gpu123", "テス", "スト"]


def test_signs_become_overlapping_pairs_and_other_words_stay_whole() -> None:
    assert split_words("GPU版本的 猫") == ["GPU", "版本", "本的", "猫"]
    assert term_spans("a 羊驼毛") == [(0, 1), (2, 4), (3, 5)]
    assert (is_paired("驼"), is_paired("a")) == (True, False)


@pytest.mark.parametrize("language", ["", "zz", "zz9", "english", "EN"])
def test_a_language_that_is_no_code_is_refused(language: str) -> None:
    with pytest.raises(ConfigError, match="language"):
        new_tokenizer(language)


@pytest.mark.parametrize(
    ("language", "text", "question"),
    [
        ("hi", "यह किताब मेज़ पर रखी है", "किताब"), ("ne", "पानी पर्‍यो", "पानी"), ("ta", "நூல் படித்தேன்", "நூல்"),
        ("bn", "বৃষ্টি পড়ছে", "বৃষ্টি"), ("ar", "الكِتَابُ عَلَى الطَّاوِلَةِ", "الكتاب"), ("ar", "الكتاب", "الكِتَابُ"),
        ("he", "שָׁלוֹם עולם", "שלום"), ("fa", "می\u200cخواهم بروم", "میخواهم"), ("tr", "İstanbul güzel", "istanbul"),
        ("en", "istanbul", "İSTANBUL"), ("th", "แมวชอบกินปลา", "แมว"), ("th", "แมวชอบกินปลา", "กินปลา"),
        ("th", "งูกินปลา", "งู"), ("th", "น้ำใส", "น้ำ"), ("lo", "ແມວກິນປາ", "ແມວ"), ("my", "ကျွန်တော်ရေသောက်သည်", "ရေ"),
        ("km", "ឆ្មាស៊ីត្រី", "ឆ្មា"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_words_with_marks_are_found(language: str, text: str, question: str, form: str) -> None:
    text = unicodedata.normalize(form, text)
    index = Bm25Index.build([Passage("a", text), Passage("b", "पर رض ม က x")], language=language)
    assert list(index.search([Query("q", question)]).results["q"]) == ["a"]
    assert index.score_text(question, text) == pytest.approx(index.scores(question)[0])


@pytest.mark.parametrize(("code", "text", "question"), [("nb", "Bilene er her", "bil"), ("deu", "Die Häuser", "Haus")])
def test_a_language_is_stemmed_under_each_of_its_codes(code: str, text: str, question: str, tmp_path: Path) -> None:
    index = Bm25Index.build([Passage("a", text), Passage("b", "x y")], language=code)
    assert list(index.search([Query("q", question)]).results["q"]) == ["a"]
    index.save(tmp_path)
    facts = json.loads((tmp_path / "corpus.json").read_text(encoding="utf-8"))
    assert facts["language"] == check_language(code)


def test_an_index_that_recorded_a_code_without_stemmer_opens_as_it_was_made(tmp_path: Path) -> None:
    Bm25Index.build([Passage("a", "Die Häuser"), Passage("b", "x y")], language="haw").save(tmp_path)
    facts = tmp_path / "corpus.json"
    facts.write_text(facts.read_text(encoding="utf-8").replace('"haw"', '"deu"'), encoding="utf-8")
    index = Bm25Index.load(tmp_path, ["a", "b"])
    found = index.search([Query("q", "häuser"), Query("r", "die"), Query("s", "Haus")]).results
    assert [list(found[name]) for name in "qrs"] == [["a"], ["a"], []]


def test_a_language_without_stemmer_and_stop_words_is_told_where_it_has_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for language in ("de", "fi", "zh", "ja", "th"):
        Bm25Index.build(PASSAGES, language=language)
    assert caplog.text == ""
    Bm25Index.build(PASSAGES, language="pl")
    assert "BM25 has no stemmer and no stop words for the language 'pl'; all words count as written" in caplog.text


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("language", ["tr", "az", "tur"])
def test_capitals_of_turkish_and_azeri_are_those_of_the_language(language: str, form: str, tmp_path: Path) -> None:
    texts = ("IŞIK HIZI", "ışık hızı", "İZMİR", "izmir")
    passages = [Passage(str(n), unicodedata.normalize(form, text)) for n, text in enumerate(texts)]
    Bm25Index.build(passages, language=language).save(tmp_path)
    index = Bm25Index.load(tmp_path, ["0", "1", "2", "3"])
    for question, found in (("ışık", {"0", "1"}), ("HIZI", {"0", "1"}), ("izmir", {"2", "3"}), ("İzmir", {"2", "3"})):
        assert set(index.search([Query("q", question)]).results["q"]) == found
        assert index.score_text(question, "IŞIK İZMİR HIZI") > 0
    assert (words_version("tr"), words_version("az"), words_version("de")) == (3, 3, 2)
    facts = json.loads((tmp_path / "corpus.json").read_text(encoding="utf-8"))
    (tmp_path / "corpus.json").write_text(json.dumps({**facts, "words": 2}), encoding="utf-8")
    with pytest.raises(StoreError, match=r"\(another version of llama2vec counted its words"):
        Bm25Index.load(tmp_path, ["0", "1", "2", "3"])


@pytest.mark.parametrize(
    ("language", "texts", "question", "found"),
    [
        ("ja", ["三毛猫が好き", "犬が好き", "猫"], "猫", ["0", "2"]),
        ("zh", ["所得税法", "法律"], "税 ?", ["0"]),
        ("zh", ["所得税法", "法律"], "所 律", ["0", "1"]),
        ("th", ["กขค", "คง"], "ข", ["0"]),
        ("ko", ["고양이 물", "개"], "물", ["0"]),
        # With neighbors, a sign counts in its pairs only.
        ("zh", ["所得税法", "法律"], "税金", []),
    ],
)
def test_a_single_sign_finds_the_pairs_that_it_is_in(
    language: str, texts: list[str], question: str, found: list[str]
) -> None:
    index = Bm25Index.build([Passage(str(n), text) for n, text in enumerate(texts)], language=language)
    assert sorted(index.search([Query("q", question)]).results["q"]) == found
    for text, score in zip(texts, index.scores(question), strict=True):
        assert index.score_text(question, text) == pytest.approx(score)


def test_a_question_without_words_to_compare_is_known() -> None:
    index = Bm25Index.build(PASSAGES)
    assert [index.reads(question) for question in ("C", "the of", "?", "猫", "zebra")] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_pairs_of_letters_keep_their_marks_and_a_letter_with_a_mark_is_a_word_too() -> None:
    assert split_words("งูกินปลา") == ["งู", "งูกิ", "กิ", "กิน", "นป", "ปล", "ลา"]
    assert split_words("か\u3099き") == ["か\u3099き"]
    assert term_spans("a ที่ x\u0304") == [(0, 1), (2, 5), (6, 8)]
    # One letter is no word, with an accent or a frame either; a vowel sign is like a letter.
    assert split_normalized("x\u0304 1\ufe0f\u20e3 की ab\u20e3") == ["की", "ab"]


def test_latin_greek_and_cyrillic_texts_have_the_words_that_a_plain_pattern_finds() -> None:
    text = "Don't stop: snake_case, x², the café’s Größe; ΣΊΣΥΦΟΣ τρέχει, Мой йогурт ½ ﬁne — naïve I/O of C++."
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        expected = re.findall(r"\b\w\w+\b", unicodedata.normalize("NFKC", unicodedata.normalize(form, text)).lower())
        assert split_normalized(unicodedata.normalize(form, text)) == expected


@pytest.mark.parametrize("change", [{"words": 1}, {"words": 99}, {"words": None}])
def test_an_index_with_words_of_another_version_is_refused(tmp_path: Path, change: dict[str, int | None]) -> None:
    Bm25Index.build(PASSAGES).save(tmp_path)
    facts = json.loads((tmp_path / "corpus.json").read_text(encoding="utf-8"))
    (tmp_path / "corpus.json").write_text(json.dumps({**facts, **change}), encoding="utf-8")
    with pytest.raises(StoreError, match=r"\(another version of llama2vec counted its words.* build it again"):
        Bm25Index.load(tmp_path, [passage.id for passage in PASSAGES])
