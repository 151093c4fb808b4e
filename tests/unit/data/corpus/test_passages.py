"""Corpora: what is read from each kind of source, and that a run reads it once."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from opens import Opens
from sample_files import jsonl, written

from llama2vec.data.corpus import passages as module
from llama2vec.data.corpus.passages import (
    corpus_fingerprint,
    count_passages,
    read_flat,
    read_once,
    read_passages,
    read_queries,
)
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.data.text.words import word_spans
from llama2vec.errors import ConfigError, CorpusFormatError, DataError, EmptyCorpusError
from llama2vec.records import Passage, Place, Query


def complaint(source: str | Path, error: type[DataError] = CorpusFormatError) -> str:
    with pytest.raises(error) as caught:
        list(read_passages(source))
    message = str(caught.value)
    assert "\n" not in message
    return message


ROWS = [{"_id": "a", "title": "Llama", "text": "A camelid."}, {"_id": "b", "text": ""}]
PASSAGES = [Passage("a", "A camelid.", "Llama"), Passage("b", "")]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_beir_folder_and_its_file_give_the_same_passages(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, jsonl(ROWS))
    assert list(read_passages(tmp_path)) == list(read_passages(str(path))) == PASSAGES


def test_ids_may_be_whole_numbers_and_be_called_id(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", jsonl([{"id": 7, "text": "x", "title": None}]))
    assert list(read_passages(path)) == [Passage("7", "x")]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    text = "one\u2028two\u0085three\x0bfour\x1cfive"
    path = written(tmp_path / "a.jsonl", jsonl([{"_id": "1", "text": text}]))
    assert next(read_passages(path)).text == text
    table = written(tmp_path / "a.tsv", f"1\t{text}\n")
    assert next(read_passages(table)).text == text


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_harmless(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", "\ufeff1\tx\r\n\r\n \n2\ty")
    assert list(read_passages(path)) == [Passage("1", "x"), Passage("2", "y")]
    assert count_passages(path) == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON"),
        ('{"_id": "2", "text": "cut of', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"_id": ' + "1" * 5000 + ', "text": "x"}', "is not JSON"),
        ("[1]", "is a JSON list"),
        ("null", "is a JSON NoneType"),
        ('{"text": "x"}', 'has no "_id"'),
        ('{"_id": "", "text": "x"}', "has the _id ''"),
        ('{"_id": " ", "text": "x"}', "has the _id ' '"),
        ('{"_id": null, "text": "x"}', "has the _id None"),
        ('{"_id": true, "text": "x"}', "has the _id True"),
        ('{"_id": 1.5, "text": "x"}', "has the _id 1.5"),
        ('{"_id": "2"}', 'has no "text"'),
        ('{"_id": "2", "text": null}', "has the text None"),
        ('{"_id": "2", "text": ["x\\ny"]}', "has the text ["),
        ('{"_id": "2", "text": "x", "title": 3}', "has the title 3"),
        ('{"_id": "1", "text": "x"}', "repeats the id '1'"),
        ('{"_id": "2", "text": "\\ud83d"}', "half a surrogate pair (\\ud83d) in its text"),
    ],
)
def test_a_faulty_row_is_reported_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    path = written(tmp_path / "a.jsonl", f'{{"_id": "1", "text": "x"}}\n\n{line}\n')
    message = complaint(path)
    assert message.startswith(f"{path}:3 ")
    assert problem in message


def test_an_escaped_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"_id": "1", "text": "\\ud83e\\udd99"}\n')
    assert next(read_passages(path)).text == "🦙"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_byte_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, b'{"_id": "1", "text": "x"}\n' + '{"_id": "é"}'.encode("latin-1"))
    assert complaint(path).startswith(f"{path}:2 is not UTF-8 (byte 0xe9)")


def test_a_truncated_gzip_file_is_reported(tmp_path: Path) -> None:
    whole = gzip.compress(jsonl({"_id": str(n), "text": f"text {n * n}"} for n in range(5000)).encode())
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    assert "ends in the middle of its gzip data" in complaint(path)
    path.write_bytes(b'{"_id": "1", "text": "x"}\n')
    assert "is not a gzip file" in complaint(path)


def test_a_table_has_two_or_three_columns(tmp_path: Path) -> None:
    assert list(read_passages(written(tmp_path / "a.tsv", "1\tx\n2\t\n"))) == [Passage("1", "x"), Passage("2", "")]
    assert list(read_passages(written(tmp_path / "b.tsv.gz", "1\tt\tx\n"))) == [Passage("1", "x", "t")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("1\tx\nalone\n", ":2 has 1 column; write"),
        ("1\tx\n2\tx\ty\n", ":2 has 3 columns where line 1 has 2"),
        ("1\ta\tb\tc\n", ":1 has 4 columns"),
        ("1\tx\n\ty\n", ":2 has no id"),
        ("1\tx\n1\ty\n", ":2 repeats the id '1'"),
    ],
)
def test_a_faulty_table_row_is_reported_with_its_line(tmp_path: Path, content: str, problem: str) -> None:
    assert problem in complaint(written(tmp_path / "a.tsv", content))


def short(passages: Iterable[Passage]) -> list[tuple[str, str, str]]:
    return [(passage.id, passage.text, passage.title) for passage in passages]


def test_a_folder_of_documents_is_read_in_order_of_its_paths(tmp_path: Path) -> None:
    written(tmp_path / "b.txt", "# not a heading\n\nSecond.\n")
    written(tmp_path / "a" / "field notes.md", "\n## The *llama* ##\n\nHums.\n\nOften.\n")
    written(tmp_path / "a" / "z.md", "```\n# a comment\n```\nFirst.\n# Later\nRest.\n")
    written(tmp_path / "a" / "table.csv", "name,about\nAyla,She leads the whole herd up.\n")
    written(tmp_path / ".hidden" / "x.txt", "hidden")
    found = list(read_passages(tmp_path))
    assert short(found) == [
        ("a/field%20notes.md", "Hums.\n\nOften.", "The llama"),
        ("a/table.csv#2", "She leads the whole herd up.", "Ayla"),
        ("a/z.md", "```\n# a comment\n```\nFirst.\n# Later\nRest.", "Later"),
        ("b.txt", "# not a heading\n\nSecond.", ""),
    ]
    assert found[0].place == Place("a/field notes.md", 20, 33, 4, 6)
    assert set(found[0].fields) == {"modified"}
    assert count_passages(tmp_path) == 4


def test_a_single_document_is_one_passage(tmp_path: Path) -> None:
    path = written(tmp_path / "notes.md", "# Title\nBody.")
    assert short(read_passages(path)) == [("notes.md", "Body.", "Title")]
    assert count_passages(path) == 1


def test_files_that_differ_in_their_suffix_alone_are_two_documents(tmp_path: Path) -> None:
    written(tmp_path / "a.md", "x")
    written(tmp_path / "a.txt", "y")
    assert short(read_passages(tmp_path)) == [("a.md", "x", ""), ("a.txt", "y", "")]


def test_a_splitter_cuts_documents_and_rows_only_where_asked(tmp_path: Path) -> None:
    written(tmp_path / "docs" / "a.txt", "One two three. " * 20)
    rows = written(tmp_path / "a.jsonl", jsonl([{"_id": "r", "text": "One two three. " * 20}]))
    auto = Splitter(PassageSettings(tokens=8, overlap=0), word_spans)
    always = Splitter(PassageSettings(split="always", tokens=8, overlap=0), word_spans)
    parts = [passage.id for passage in read_passages(tmp_path / "docs", splitter=auto)]
    assert parts == [f"a.txt#{number}" for number in range(1, 11)]
    assert [passage.id for passage in read_passages(rows, splitter=auto)] == ["r"]
    assert [passage.id for passage in read_passages(rows, splitter=always)] == [
        f"r#{number}" for number in range(1, 11)
    ]
    with read_once():
        assert len(list(read_passages(tmp_path / "docs"))) == 1
        assert len(list(read_passages(tmp_path / "docs", splitter=auto))) == 10


def test_settings_name_the_fields_of_json_lines_and_other_scalars_are_fields(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", jsonl([{"key": 7, "body": "x", "head": "T", "year": 2020, "deep": {}}]))
    # A field is asked for only where the caller takes settings.
    assert complaint(path).endswith('has no "_id"; give each row an id')
    with pytest.raises(CorpusFormatError, match=r"give each row an id, or name its field \(reading\.id_field\)"):
        list(read_passages(path, settings=ReadingSettings()))
    settings = ReadingSettings(text_field="body", id_field="key", title_field="head")
    assert list(read_passages(path, settings=settings)) == [Passage("7", "x", "T", None, {"year": 2020})]


def test_documents_that_cannot_be_read_are_said_once_or_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "a.txt", "x")
    written(tmp_path / "b.png", b"\x89PNG")
    with caplog.at_level(logging.INFO):
        assert count_passages(tmp_path) == count_passages(tmp_path) == 1
    assert caplog.messages == [f"{tmp_path}: read 1 file (1 document), skipped 1\n  skipped     1  a picture: b.png"]
    report = ReadingReport()
    list(read_passages(tmp_path, report=report))
    assert (report.files, [one.name for one in report.skipped]) == (1, ["b.png"])
    with read_once():
        # Also where the passages are known.
        for _ in range(2):
            again = ReadingReport()
            assert len(list(read_passages(tmp_path, report=again))) == 1
            assert again == report
    with pytest.raises(DataError, match=r": 1 file cannot be read whole, such as b\.png \(a picture\)"):
        list(read_passages(tmp_path, settings=ReadingSettings(strict=True)))


def test_the_fingerprint_covers_every_document_and_passes_over_what_cannot_be_opened(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "x")
    picture = written(tmp_path / "b.html", "<p>y")
    before = corpus_fingerprint(tmp_path)
    picture.write_text("<p>z")
    assert corpus_fingerprint(tmp_path) != before
    picture.unlink()
    only = corpus_fingerprint(tmp_path)
    (tmp_path / "c.txt").symlink_to(tmp_path / "gone")
    assert corpus_fingerprint(tmp_path) == only
    assert corpus_fingerprint(tmp_path, ReadingSettings(exclude=["*.html"])) == only


def test_a_missing_unknown_or_empty_source_says_what_to_give(tmp_path: Path) -> None:
    # The path is checked when the function is called, not when the first passage is wanted.
    with pytest.raises(CorpusFormatError, match="no such file or folder; give a BEIR folder"):
        read_passages(tmp_path / "nowhere")
    assert "a.parquet: data of a program; give a BEIR" in complaint(written(tmp_path / "a.parquet", b"PAR1"))
    (tmp_path / "none").mkdir()
    assert "none holds no file to read; give a BEIR folder" in complaint(tmp_path / "none", EmptyCorpusError)
    (tmp_path / "none" / "a.txt").symlink_to(tmp_path / "gone")
    assert "(skipped a.txt: a link that leads nowhere)" in complaint(tmp_path / "none", EmptyCorpusError)
    bad = written(tmp_path / "pdf" / "a.pdf", b"").parent
    assert "none of 1 file can be read, such as a.pdf (empty)" in complaint(bad, EmptyCorpusError)
    assert "is empty" in complaint(written(tmp_path / "a.jsonl", "\n"), EmptyCorpusError)


def test_the_limit_stops_before_a_later_fault(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", jsonl(ROWS) + "broken\n")
    assert list(read_passages(path, limit=2)) == PASSAGES
    with pytest.raises(ConfigError, match="at least 1"):
        read_passages(path, limit=0)


def test_queries_come_from_a_folder_a_jsonl_or_a_table(tmp_path: Path) -> None:
    expected = [Query("1", "what hums?")]
    path = written(tmp_path / "queries.jsonl.gz", jsonl([{"_id": "1", "text": "what hums?", "metadata": {}}]))
    assert read_queries(tmp_path) == read_queries(path) == expected
    assert read_queries(written(tmp_path / "q.tsv", "1\twhat hums?\n")) == expected


def test_queries_are_checked_like_passages(tmp_path: Path) -> None:
    with pytest.raises(CorpusFormatError, match=r"q\.tsv:1 has 3 columns; write id, text"):
        read_queries(written(tmp_path / "q.tsv", "1\tx\ty\n"))
    with pytest.raises(CorpusFormatError, match=r"q\.jsonl:2 repeats the id '1'"):
        read_queries(written(tmp_path / "q.jsonl", jsonl([{"_id": "1", "text": "x"}, {"_id": 1, "text": "y"}])))
    with pytest.raises(EmptyCorpusError, match=r"no queries\.jsonl"):
        read_queries(written(tmp_path / "texts" / "a.txt", "x").parent)
    with pytest.raises(CorpusFormatError, match="holds no queries"):
        read_queries(written(tmp_path / "a.txt", "x"))
    with pytest.raises(CorpusFormatError, match="no such file"):
        read_queries("hf:some/dataset")


def test_a_fingerprint_follows_content_and_names_but_not_the_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        written(tmp_path / place / "a.txt", "x")
        written(tmp_path / place / "b" / "c.txt", "y")
    original = corpus_fingerprint(tmp_path / "one")
    assert corpus_fingerprint(tmp_path / "two") == original
    assert len(original) == 64
    written(tmp_path / "two" / "a.txt", "z")
    assert corpus_fingerprint(tmp_path / "two") != original
    (tmp_path / "one" / "a.txt").rename(tmp_path / "one" / "d.txt")
    assert corpus_fingerprint(tmp_path / "one") != original
    assert corpus_fingerprint("hf:some/dataset") == "hf:some/dataset"
    with pytest.raises(CorpusFormatError, match="no such file"):
        corpus_fingerprint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_working_directory(name: str) -> None:
    for read in (read_passages, read_queries, count_passages, corpus_fingerprint):
        with pytest.raises(CorpusFormatError, match="is empty; give a BEIR folder"):
            read(name)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("header", "row", "passage"),
    [
        ("id\ttext\ttitle", "1\tIt flows north.\tRiver", Passage("1", "It flows north.", "River")),
        ("PID\tpassage", "1\tx", Passage("1", "x")),
        ("text\t_id", "x\t1", Passage("1", "x")),
    ],
)
def test_the_header_of_a_table_names_its_columns(tmp_path: Path, header: str, row: str, passage: Passage) -> None:
    assert list(read_passages(written(tmp_path / "a.tsv", f"{header}\n{row}\n"))) == [passage]


def test_a_header_of_queries_is_not_a_query(tmp_path: Path) -> None:
    assert read_queries(written(tmp_path / "q.tsv", "query_id\ttext\n1\triver\n")) == [Query("1", "river")]


def test_an_unknown_header_is_refused(tmp_path: Path) -> None:
    assert "a.tsv:1 looks like a header" in complaint(written(tmp_path / "a.tsv", "id\tabstract\n1\tx\n"))


def test_old_line_ends_are_refused_in_a_table_and_read_in_a_text(tmp_path: Path) -> None:
    assert "a.tsv:1 contains a carriage return" in complaint(written(tmp_path / "a.tsv", "1\talpha\r2\tbeta\r"))
    assert short(read_passages(written(tmp_path / "a.md", "# River\rIt flows."))) == [("a.md", "It flows.", "River")]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(f'{{"_id": "{n}", "text": "text {n}"}}\n' for n in range(5)), encoding="utf-8")
    return path


def test_one_reading_serves_all_and_hashing_is_another(corpus: Path) -> None:
    plain = list(read_passages(corpus))
    opens = Opens()
    with read_once():
        assert list(read_passages(corpus)) == list(read_passages(str(corpus))) == list(read_passages(corpus.parent))
        assert list(read_passages(corpus, limit=2)) == plain[:2]
        assert count_passages(corpus) == 5
        assert corpus_fingerprint(corpus) == corpus_fingerprint(corpus.parent)
    assert opens.of(corpus) == 2
    assert list(read_passages(corpus)) == plain
    assert opens.of(corpus) == 3


def test_a_reading_that_stops_early_is_not_taken_for_the_whole(corpus: Path) -> None:
    with read_once():
        assert len(list(read_passages(corpus, limit=2))) == 2
        assert len(list(read_passages(corpus))) == 5


def test_a_file_that_changes_is_read_again(corpus: Path) -> None:
    with read_once():
        before = corpus_fingerprint(corpus), list(read_passages(corpus))
        corpus.write_text('{"_id": "new", "text": "x"}\n', encoding="utf-8")
        os.utime(corpus, ns=(1, 1))
        assert [passage.id for passage in read_passages(corpus)] == ["new"]
        assert corpus_fingerprint(corpus) != before[0]


def test_a_corpus_that_is_too_large_is_streamed_each_time(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 600)
    opens = Opens()
    with read_once():
        assert list(read_passages(corpus)) == list(read_passages(corpus))
    assert opens.of(corpus) == 2


def test_ids_are_checked_again_after_a_streamed_reading_that_failed(tmp_path: Path) -> None:
    with pytest.raises(CorpusFormatError), read_flat():
        list(read_passages(written(tmp_path / "broken.jsonl", "{")))
    twice = written(tmp_path / "twice.jsonl", '{"_id": "1", "text": "x"}\n{"_id": "1", "text": "y"}\n')
    assert "repeats the id '1'" in complaint(twice)


def test_of_two_documents_with_one_id_the_later_one_is_numbered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "a b.md", "First.")
    written(tmp_path / "a%20b.md", "Second.")
    written(tmp_path / "rows.jsonl", jsonl([{"id": "r", "text": "One two three. " * 20}, {"id": "r#1", "text": "x"}]))
    splitter = Splitter(PassageSettings(tokens=8, overlap=0), word_spans)
    report = ReadingReport()
    found = list(read_passages(tmp_path, splitter=splitter, report=report, settings=ReadingSettings(strict=True)))
    assert [(one.id, one.text) for one in found[:2]] == [("a%20b.md", "First."), ("a%20b.md@2", "Second.")]
    assert [found[2].id, found[-1].id] == ["rows.jsonl#r#1", "rows.jsonl#r#1@2"]
    assert len({one.id for one in found}) == len(found)
    assert report.table().endswith("  noted     2  its id was taken, so @2 was added: a%20b.md, rows.jsonl#r#1")
    with caplog.at_level(logging.INFO):
        assert [one.id for one in read_passages(tmp_path, splitter=splitter)] == [one.id for one in found]
    assert "its id was taken, so @2 was added" in caplog.text


def test_rows_that_share_an_id_stay_an_error(tmp_path: Path) -> None:
    rows = written(tmp_path / "a.jsonl", jsonl([{"_id": "r", "text": "One two. " * 20}, {"_id": "r#1", "text": "x"}]))
    always = Splitter(PassageSettings(split="always", tokens=8, overlap=0), word_spans)
    with pytest.raises(CorpusFormatError, match="repeats the id 'r#1'; ids must be unique"):
        list(read_passages(rows, splitter=always))


def test_queries_have_the_fields_that_are_named_or_the_usual_ones(tmp_path: Path) -> None:
    named = written(tmp_path / "named.jsonl", jsonl([{"key": 7, "body": "x"}, {"_id": "b", "text": "y"}]))
    settings = ReadingSettings(text_field="body", id_field="key")
    assert read_queries(named, settings) == [Query("7", "x"), Query("b", "y")]
    with pytest.raises(CorpusFormatError, match=r'has no "_id"; give each row an id$'):
        read_queries(named)
    with pytest.raises(CorpusFormatError, match=r"name its field \(reading\.id_field\)"):
        read_queries(named, ReadingSettings())


def test_rows_of_labeled_examples_are_queries_where_they_are_meant(tmp_path: Path) -> None:
    rows = [{"query": "x", "pos": ["p"]}, {"query": "y", "pos": ["p"], "query_id": "1"}, {"_id": "b", "text": "z"}]
    path = written(tmp_path / "rows.jsonl", jsonl(rows))
    assert [query.text for query in read_queries(path, labeled=True)] == ["x", "y", "z"]
    with pytest.raises(CorpusFormatError, match='has no "_id"'):
        read_queries(path)
