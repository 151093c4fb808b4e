from pathlib import Path

import pytest

from llama2vec.data.corpus.passages import corpus_fingerprint
from llama2vec.data.corpus.reading import corpus_source, documents_folder, is_split
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import PassageSettings
from llama2vec.data.text.words import word_spans
from llama2vec.errors import CorpusFormatError


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Llamas\n\nThey hum.\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"_id": "1", "text": "x"}\n', encoding="utf-8")
    return {"folder": tmp_path / "docs", "file": tmp_path / "docs" / "a.md", "rows": tmp_path / "rows.jsonl"}


def test_documents_are_split_by_default_and_rows_only_on_request(sources: dict[str, Path]) -> None:
    found = {
        split: {name for name, source in sources.items() if is_split(source, PassageSettings(split=split))}
        for split in ("auto", "always", "never")
    }
    assert found == {"auto": {"folder", "file"}, "always": {"folder", "file", "rows"}, "never": set()}
    assert not is_split("hf:some/data", PassageSettings())
    with pytest.raises(CorpusFormatError, match="no such file"):
        is_split("nowhere", PassageSettings())


def test_a_store_knows_where_its_documents_lie_and_how_they_were_split(sources: dict[str, Path]) -> None:
    splitter = Splitter(PassageSettings(tokens=40), word_spans)
    fingerprint = corpus_fingerprint(sources["folder"])
    assert corpus_source(sources["folder"], SteadyInputs(), splitter) == {
        "corpus": str(sources["folder"]), "fingerprint": fingerprint, "folder": str(sources["folder"].resolve()),
        "place": str(sources["folder"].resolve()),
        "passages": splitter.plan,
    }  # fmt: skip
    assert documents_folder(sources["file"]) == documents_folder(sources["folder"])
    rows = sources["rows"]
    facts = {"corpus": str(rows), "fingerprint": corpus_fingerprint(rows), "place": str(rows.resolve())}
    assert corpus_source(rows, SteadyInputs()) == facts
