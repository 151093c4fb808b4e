"""What the service does when its index is replaced by one that it cannot read, or that another model encoded."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from service_stand_ins import Start, TwoSided, wait_until
from synced_folder import sync, write

from llama2vec.errors import DataError, OutputBusyError, StoreError
from llama2vec.retrieve.search import opened as opened_module
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.serve.loaded import Loaded, ServedModel


def unreadable(path: Path) -> PermissionError:
    return PermissionError(13, "Permission denied", str(path))


def refuse_files(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let nobody read the files of a name."""
    read_bytes = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == name:
            raise unreadable(path)
        return read_bytes(path)

    patch.setattr(Path, "read_bytes", refused)


def refuse_folder(patch: pytest.MonkeyPatch, _: str) -> None:
    """Let nobody look into the folder of the index."""

    def refused(path: Path) -> Path:
        raise unreadable(path)

    patch.setattr("llama2vec.retrieve.index.folder.index_folder", refused)
    patch.setattr(opened_module, "index_folder", refused)


def raising(error: Exception) -> Any:
    def refuse(patch: pytest.MonkeyPatch, _: str) -> None:
        def bring_back(path: Path) -> None:
            raise error

        patch.setattr("llama2vec.retrieve.index.folder.bring_back", bring_back)

    return refuse


@pytest.mark.parametrize(
    ("refuse", "name", "told"),
    [
        (refuse_files, "index.json", "index.json cannot be read (Permission denied); check permissions and disk"),
        (refuse_files, "store.json", "store.json cannot be read (Permission denied); check permissions and disk"),
        (refuse_folder, "", "index cannot be read (Permission denied)"),
        (raising(OutputBusyError("index: process 7 is writing it")), "", "process 7 is writing it"),
        (raising(DataError("index cannot be written (Permission denied)")), "", "cannot be written"),
        (
            raising(OSError(5, "Input/output error")),
            "",
            "a file of the index or its store cannot be read (Input/output",
        ),
    ],
)
def test_a_sync_that_the_service_may_not_read_is_told_once_and_needs_no_restart(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, refuse: Any, name: str, told: str
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool"}), tmp_path / "index"
    sync(folder, index)
    service = start(opened=lambda: Loaded.with_index(None, Retriever.open(index)))
    caplog.set_level(logging.INFO, "llama2vec")
    write(folder, {"b.txt": "warm wool"})
    sync(folder, index)
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, name)
        for path in ("/search?q=wool", "/fields", "/context?row=0", "/search?q=wool"):
            answer = service.client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_changed")
            health = service.client.get("/healthz")
            assert (health.status_code, health.json()["status"]) == (503, "store_changed")
    assert "Traceback" not in caplog.text
    assert [told in message for message in caplog.messages if "searches fail until this is mended" in message] == [True]
    wait_until(lambda: service.client.get("/healthz").json()["status"] == "ok")
    assert len(service.client.get("/search", params={"q": "wool"}).json()["hits"]) == 2


def served(index: Path, contract: str, *, named: bool) -> Loaded:
    return Loaded.with_index(cast(ServedModel, TwoSided(contract)), Retriever.open(index), named=named)


def modes(client: httpx.Client) -> list[list[str]]:
    health = client.get("/healthz").json()
    return [health["status"], health["modes"], health["coming"]]


def test_words_answer_while_the_model_of_new_vectors_is_loaded(start: Start, tmp_path: Path) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool", "b.txt": "a river"}), tmp_path / "index"
    sync(folder, index, TwoSided("first"))
    loading, contracts = threading.Event(), ["first", "second"]
    loading.set()

    def opened() -> Loaded:
        assert loading.wait(20)
        return served(index, contracts.pop(0), named=False)

    service = start(opened=opened)
    ask = service.client.get
    assert modes(service.client) == ["ok", ["hybrid", "dense", "bm25"], []]
    loading.clear()
    sync(folder, index, TwoSided("second"))
    # Asked for in the modes of the old state: the default follows, and a mode that is gone is refused.
    first = ask("/search", params={"q": "wool"})
    assert (first.status_code, first.json()["mode"]) == (200, "bm25")
    assert ask("/search", params={"q": "wool", "mode": "dense"}).status_code == 400
    assert modes(service.client) == ["ok", ["bm25"], ["hybrid", "dense"]]
    assert service.client.post("/v1/embeddings", json={"input": "wool"}).status_code == 200
    assert ask("/v1/models").json()["data"][0]["contract_hash"] == "first"
    loading.set()
    wait_until(lambda: modes(service.client) == ["ok", ["hybrid", "dense", "bm25"], []])
    assert ask("/v1/models").json()["data"][0]["contract_hash"] == "second"
    dense = ask("/search", params={"q": "b a river", "mode": "dense"}).json()["hits"]
    assert (dense[0]["id"], dense[0]["score"]) == ("b.txt#1", pytest.approx(1))


def test_a_mode_that_goes_while_it_is_asked_for_is_refused_and_no_failure(start: Start, tmp_path: Path) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool"}), tmp_path / "index"
    sync(folder, index, TwoSided("first"))
    service = start(opened=lambda: served(index, "first", named=True))
    sync(folder, index, TwoSided("second"))
    answer = service.client.get("/search", params={"q": "wool", "mode": "hybrid"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "mode")


def test_beside_a_named_model_words_answer_and_the_log_says_to_restart(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool"}), tmp_path / "index"
    sync(folder, index, TwoSided("first"))
    loads: list[str] = []

    def opened() -> Loaded:
        loads.append("once")
        return served(index, "first", named=True)

    service = start(opened=opened)
    sync(folder, index, TwoSided("second"))
    for _ in range(3):
        answer = service.client.get("/search", params={"q": "wool"})
        assert (answer.status_code, answer.json()["mode"]) == (200, "bm25")
        assert modes(service.client) == ["ok", ["bm25"], []]
    wait_until(lambda: "BM25 alone still answers" in caplog.text)
    assert caplog.text.count("restart the service with the index's model") == 1
    sync(folder, index, TwoSided("first"))
    wait_until(lambda: modes(service.client) == ["ok", ["hybrid", "dense", "bm25"], []])
    assert loads == ["once"]


def test_an_index_without_words_cannot_follow_another_model(tmp_path: Path) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool"}), tmp_path / "index"
    sync(folder, index, TwoSided("first"))
    loaded = Loaded.with_index(cast(ServedModel, TwoSided("first")), Retriever.open(index / "store"))
    sync(folder, index, TwoSided("second"))
    fault = loaded.check_store()
    assert isinstance(fault, StoreError)
    assert "was encoded under contract" in str(fault)


def test_auto_files_are_those_of_the_folder_that_the_index_follows_now(start: Start, tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, {"a.txt": f"{name} wool"}) for name in ("first", "second"))
    index = tmp_path / "index"
    sync(first, index)
    service = start(opened=lambda: Loaded.with_index(None, Retriever.open(index)), files="auto")
    (hit,) = service.client.get("/search", params={"q": "wool"}).json()["hits"]
    assert service.client.get(f"/{hit['file']}").text == "first wool"
    sync(second, index, follow=True)
    (hit,) = service.client.get("/search", params={"q": "wool"}).json()["hits"]
    assert (hit["text"], service.client.get(f"/{hit['file']}").text) == ("second wool", "second wool")
    second.rename(tmp_path / "away")
    (hit,) = service.client.get("/search", params={"q": "wool"}).json()["hits"]
    assert hit["file"] is None
    assert service.client.get("/files/a.txt").status_code == 404
