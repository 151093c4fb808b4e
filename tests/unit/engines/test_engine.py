"""What engines share: addresses without passwords, characters that all of them take, what a collection says."""

from __future__ import annotations

import pytest

from llama2vec.engines.engine import (
    About,
    document_id,
    encodable,
    masked,
    masked_line,
    payload,
    read_about,
    unreachable,
)
from llama2vec.errors import EngineError
from llama2vec.records import Passage, Place


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:p%40ss@host:5432/base", "postgresql://me:***@host:5432/base"),
        ("postgresql://me@host/base?password=secret&sslmode=require", "postgresql://me@host/base?password=***&sslmode=require"),
        ("host=db password = 'two words' user=me", "host=db password = *** user=me"),
        ("http://host:9200", "http://host:9200"),
        ("folder/passages.db", "folder/passages.db"),
    ],
)  # fmt: skip
def test_passwords_are_hidden(address: str, shown: str) -> None:
    assert masked(address) == shown


def test_a_passage_becomes_what_an_engine_keeps() -> None:
    place = Place("guide/a.md", 3, 9, 1, 2)
    assert payload(Passage("1", "text", "title", place, {"year": 2020, "draft": False})) == {
        "id": "1", "title": "title", "text": "text", "path": "guide/a.md", "page": None,
        "place": {"document": "guide/a.md", "begin": 3, "end": 9, "first_line": 1, "last_line": 2},
        "fields": {"year": 2020, "draft": False},
    }  # fmt: skip
    assert payload(Passage("1", "text"))["place"] == {}


def test_keys_of_passages_are_plain_and_have_one_length() -> None:
    ids = ("", "1", "世" * 1000, "a'] or id not in ['", 'z" or id != "', "\\", "a\nb")
    keys = {document_id(one) for one in ids}
    assert len(keys) == len(ids)
    assert all(len(key) == 64 and key.isalnum() for key in keys)


def test_only_what_no_engine_takes_is_replaced() -> None:
    plain = Passage("1", "wörld 世界\u2028", fields={"a": 1})
    assert encodable(plain) is plain
    changed = encodable(Passage("1", "a\0b", "half \ud800", fields={"k\0": "v\0", "n": 1}))
    assert (changed.text, changed.title) == ("a\ufffdb", "half \ufffd")
    assert dict(changed.fields) == {"k\ufffd": "v\ufffd", "n": 1}


def test_what_a_collection_says_is_read_back() -> None:
    about = About(contract_hash="c0ffee", dimension=8, language="de", mirrors="abc")
    assert read_about(about.model_dump_json(), "it") == about
    assert read_about(about.model_dump(), "it") == about
    for other in (None, "", "{}", "a comment", {"format": "theirs"}, about.model_dump() | {"version": 2}):
        with pytest.raises(EngineError, match="it was not made by this version of `llama2vec export`; choose another"):
            read_about(other, "it")


def test_what_a_client_says_is_one_short_line_without_passwords() -> None:
    assert masked_line(ValueError("first\n  second")) == "first second"
    assert masked_line(ValueError()) == "ValueError"
    assert "secret" not in masked_line(OSError("http://me:secret@host refused"))
    assert len(masked_line(ValueError("x" * 1000))) == 301


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("[Errno 111] Connection refused.", "it cannot be reached ([Errno 111] Connection refused); check the address"),
        ('FATAL:  password authentication failed for user "me"', "it refuses the login (FATAL: password authent"),
        ("Unexpected Response: 401 (Unauthorized)", "put the password or key into $LLAMA2VEC_ENGINE_TOKEN"),
    ],
)
def test_an_engine_that_lets_nobody_in_says_what_to_do(said: str, line: str) -> None:
    assert line in str(unreachable("it", OSError(said)))
