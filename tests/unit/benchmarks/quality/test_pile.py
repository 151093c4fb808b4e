"""The pile of files: releases are unpacked whole, and a question is answered by any of its files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest


def _archive(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def test_only_documentation_is_unpacked_and_nothing_outside_the_folder(tmp_path: Path) -> None:
    from benchmarks.quality import pile

    files = {"tool-1/docs/a.md": "A", "tool-1/src/b.py": "B", "tool-1/docs/../../c.md": "C", "tool-1/man/d.1": "D"}
    pile.unpack(_archive(files), tmp_path / "files" / "tool-1")
    found = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert found == {"files/tool-1/docs/a.md", "files/tool-1/man/d.1"}


def test_an_archive_that_ends_early_leaves_no_release_behind(tmp_path: Path) -> None:
    from benchmarks.quality import pile

    whole = _archive({f"tool-1/docs/{number}.md": str(number) * 5000 for number in range(20)})
    with pytest.raises((EOFError, tarfile.ReadError)):
        pile.unpack(whole[: len(whole) // 2], tmp_path / "tool-1")
    assert not (tmp_path / "tool-1").exists()


def test_mistakes_end_in_one_line_before_anything_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.quality import pile

    monkeypatch.setattr(pile, "fetched", lambda *_: pytest.fail("fetched"))
    foreign = tmp_path / "notes.json"
    foreign.write_text('{"contract_hash": "another script has these, too", "rows": {}}')
    for model, output, told in (
        ("llama2vec-smollm2-135m", foreign, "notes.json does not hold results of this command"),
        (str(tmp_path / "absent"), tmp_path / "pile.json", "absent"),
    ):
        with pytest.raises(SystemExit) as ended:
            pile.main(["--model", model, "--work", str(tmp_path / "work"), "--output", str(output)])
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert told in error
        assert error.count("\n") == 1
    assert "another script" in foreign.read_text()
    assert not (tmp_path / "work").exists()


HASHES = {"sha256": "a" * 64}


@pytest.mark.parametrize(
    ("page", "archive", "told"),
    [
        ("<html>not JSON</html>", None, "/tool/ does not list packages"),
        ("[1]", None, "/tool/ does not list packages"),
        ({"files": [{"url": "a", "hashes": ["sha256"]}]}, None, "/tool/ does not list packages"),
        ({"files": [{"url": "a", "hashes": {"sha256": "0"}}]}, None, "/tool/ lists no file with the hash of tool-1.0"),
        (None, None, "/tool/ cannot be read (HTTP 503)"),
        ({"files": [{"url": "../a.tar.gz", "hashes": HASHES}]}, None, "/a.tar.gz cannot be read (HTTP 503)"),
        ({"files": [{"url": "../a.tar.gz", "hashes": HASHES}]}, "no such archive", "/a.tar.gz is damaged"),
    ],
)
def test_an_index_without_the_release_is_told_in_one_line_without_its_password(
    page: object, archive: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    from benchmarks.quality import pile
    from llama2vec.errors import ConfigError

    def answer(url: str, **_: object) -> httpx.Response:
        body = page if url.endswith("/tool/") else archive
        text = body if isinstance(body, str) else json.dumps(body)
        return httpx.Response(503 if body is None else 200, text=text, request=httpx.Request("GET", url))

    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@index.example/simple")
    monkeypatch.setattr(pile.httpx, "get", answer)
    with pytest.raises(ConfigError) as error:
        pile.fetched("tool-1.0", "a" * 64)
    assert str(error.value).startswith("https://index.example/simple")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_host_that_does_not_answer_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from benchmarks.quality import pile
    from llama2vec.errors import ConfigError

    def unreachable(*_: object, **__: object) -> httpx.Response:
        raise httpx.ConnectError("")

    monkeypatch.setattr(pile.httpx, "get", unreachable)
    with pytest.raises(ConfigError, match=r"cannot be read \(ConnectError\); check the connection"):
        pile.answer_of("https://index.example/simple/tool/")


def test_a_question_counts_as_answered_among_the_first_three() -> None:
    from benchmarks.quality import pile

    questions = [
        {"id": "a", "kind": "near", "files": ["tool/docs/a.md"]},
        {"id": "b", "kind": "deep", "files": ["tool/docs/b.csv"]},
        {"id": "c", "kind": "deep", "files": ["tool/docs/c.md"]},
    ]
    assert pile.answers("tool/docs/b.csv#7", questions[1]), "a row of a file is in the file"
    assert not pile.answers("tool/docs/b.csv.md", questions[1])
    assert pile.summary({"a": 3, "b": 4, "c": None}, questions) == {
        "answered": 1,
        "answered_by_kind": {"deep": 0, "near": 1},
        "first": 0,
        "MRR@10": pytest.approx((1 / 3 + 1 / 4) / 3),
        "ranks": {"a": 3, "b": 4, "c": None},
    }


def test_questions_name_files_of_the_releases() -> None:
    from benchmarks.quality import pile

    questions = json.loads(pile.QUESTIONS.read_text(encoding="utf-8"))
    assert len({question["id"] for question in questions}) == len(questions)
    for question in questions:
        assert question["question"].endswith("?")
        assert {file.split("/")[0] for file in question["files"]} <= set(pile.RELEASES)
