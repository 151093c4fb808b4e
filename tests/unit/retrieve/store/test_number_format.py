"""The number format in which a store was computed: one for all of its vectors, where it is known."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from storing import HashEncoder, corpus, write

from llama2vec.errors import OutputExistsError, StoreError
from llama2vec.records import Passage
from llama2vec.retrieve.store.journal import Journal
from llama2vec.retrieve.store.number_format import compute_dtype, dtype_at, warn_of_another_format
from llama2vec.retrieve.store.reader import PLAN_FILE, STORE_FILE, VectorStore
from llama2vec.retrieve.store.reuse import KnownVectors, reusing
from llama2vec.retrieve.store.writer import write_store


class Formatted(HashEncoder):
    """An encoder that says in which format it computes; interrupted at its nth shard."""

    def __init__(self, dtype: str, shards: int = 100) -> None:
        super().__init__()
        self.dtype, self.left = dtype, shards

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().encode_passages(passages)


def begin(folder: Path, encoder: HashEncoder) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(folder, encoder=encoder)


def forget_format(file: Path) -> None:
    """Make a store's file what an earlier version wrote."""
    content = json.loads(file.read_text())
    del content["settings"]["compute_dtype"]
    file.write_text(json.dumps(content))


def test_a_store_names_the_format(tmp_path: Path) -> None:
    assert write(tmp_path / "a", encoder=Formatted("bfloat16")).compute_dtype == "bfloat16"
    assert write(tmp_path / "b").compute_dtype == ""
    assert (compute_dtype(Formatted("float32")), compute_dtype(HashEncoder()), compute_dtype(None)) == (
        "float32",
        "",
        "",
    )


def test_a_begun_store_goes_on_in_its_format_alone(tmp_path: Path) -> None:
    begin(tmp_path / "s", Formatted("bfloat16", shards=1))
    assert dtype_at(tmp_path / "s") == "bfloat16"
    other = Formatted("float32")
    problem = (
        "s: holds an unfinished vector store begun with bfloat16, not float32; pass --dtype bfloat16, or --overwrite"
    )
    with pytest.raises(OutputExistsError, match=problem):
        write(tmp_path / "s", encoder=other)
    assert other.encoded == []
    same = Formatted("bfloat16")
    assert write(tmp_path / "s", encoder=same).compute_dtype == "bfloat16"
    assert len(same.encoded) == 6


def test_overwrite_begins_again_in_the_new_format(tmp_path: Path) -> None:
    begin(tmp_path / "s", Formatted("bfloat16", shards=1))
    write(tmp_path / "t", encoder=Formatted("float32"))
    begin_again = Formatted("bfloat16", shards=1)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "t", encoder=begin_again, shard_size=3, overwrite=True)
    assert [dtype_at(tmp_path / name) for name in "stu"] == ["bfloat16", "bfloat16", ""]
    other = Formatted("float32")
    assert write(tmp_path / "s", encoder=other, overwrite=True).compute_dtype == "float32"
    assert len(other.encoded) == 10


def test_a_store_that_came_nowhere_does_not_bind_to_its_format(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    begin(tmp_path / "t", Formatted("bfloat16", shards=1))
    (tmp_path / "s" / PLAN_FILE).write_bytes((tmp_path / "t" / PLAN_FILE).read_bytes())
    assert write(tmp_path / "s", encoder=Formatted("float32")).compute_dtype == "float32"


def test_what_an_earlier_version_began_is_resumed_and_stays_without_a_format(tmp_path: Path) -> None:
    begin(tmp_path / "s", Formatted("bfloat16", shards=1))
    forget_format(tmp_path / "s" / PLAN_FILE)
    encoder = Formatted("float32")
    assert write(tmp_path / "s", encoder=encoder).compute_dtype == ""
    assert len(encoder.encoded) == 6


def test_a_finished_store_serves_any_format_and_a_lost_shard_only_its_own(tmp_path: Path) -> None:
    write(tmp_path / "s", encoder=Formatted("bfloat16"))
    other = Formatted("float32")
    assert write(tmp_path / "s", encoder=other).compute_dtype == "bfloat16"
    assert other.encoded == []
    for part in (tmp_path / "s").glob("shard-00001.*"):
        part.unlink()
    with pytest.raises(OutputExistsError, match="begun with bfloat16, not float32"):
        write(tmp_path / "s", encoder=other)
    assert write(tmp_path / "s", encoder=Formatted("bfloat16")).compute_dtype == "bfloat16"


def test_a_lost_shard_of_an_earlier_version_leaves_the_store_without_a_format(tmp_path: Path) -> None:
    write(tmp_path / "s", encoder=Formatted("bfloat16"))
    forget_format(tmp_path / "s" / STORE_FILE)
    for part in (tmp_path / "s").glob("shard-00001.*"):
        part.unlink()
    assert write(tmp_path / "s", encoder=Formatted("float32")).compute_dtype == ""


def test_a_finished_store_of_another_format_is_told_of_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, unknown = write(tmp_path / "s", encoder=Formatted("bfloat16")), write(tmp_path / "u")
    for one, asked in ((store, "auto"), (store, "bfloat16"), (unknown, "float32")):
        warn_of_another_format(one, asked)
    assert caplog.messages == []
    warn_of_another_format(store, "float32")
    assert caplog.messages == [
        f"{tmp_path / 's'} was computed in bfloat16, not float32; to encode it again, pass --overwrite"
    ]


def test_reuse_refuses_another_format(tmp_path: Path) -> None:
    store = write(tmp_path / "s", 5, encoder=Formatted("bfloat16"))
    with pytest.raises(
        StoreError, match=r"was computed in bfloat16 and .* in float32; pass --dtype bfloat16, or leave"
    ):
        KnownVectors(Formatted("float32"), store)
    assert not isinstance(reusing(Formatted("float32"), tmp_path / "s"), KnownVectors)
    known = KnownVectors(Formatted("bfloat16"), store)
    assert write(tmp_path / "t", encoder=known).compute_dtype == "bfloat16"
    assert known.reused == 5


def test_reuse_of_a_store_without_a_format_gives_one_without(tmp_path: Path) -> None:
    store = write(tmp_path / "s", 5)
    assert write(tmp_path / "t", encoder=KnownVectors(Formatted("float32"), store)).compute_dtype == ""


@pytest.mark.parametrize(("kept", "added", "left"), [(5, 5, ""), (10, 0, "bfloat16"), (0, 10, "float32")])
def test_formats_may_mix_where_asked_for_and_are_told_of_once(
    tmp_path: Path, kept: int, added: int, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = [Passage(f"o{row}", f"another {row}") for row in range(10)]
    before = [*list(corpus(kept)()), *others][:10]
    store = write_store(lambda: before, Formatted("bfloat16"), tmp_path / "s", source={}, shard_size=4)
    known = KnownVectors(Formatted("float32"), store, mixes=True)
    assert write(tmp_path / "t", kept + added, encoder=known).compute_dtype == left
    told = "its vectors were computed in bfloat16, and those of new passages are computed in float32"
    assert [told in message for message in caplog.messages] == ([True] if kept and added else [])


def test_a_journal_of_another_format_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    passages = list(corpus(4)())
    for dtype, missing in (("bfloat16", 4), ("float32", 4), ("bfloat16", 0), ("float32", 0)):
        encoder = Formatted(dtype)
        journal = Journal(encoder, tmp_path / "j")
        journal.encode_passages(passages)
        assert journal.dtype == dtype
        journal.close()
        assert len(encoder.encoded) == missing
    with caplog.at_level(logging.WARNING):
        Journal(Formatted("float16"), tmp_path / "j").remove()
    assert "another model or other settings" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_aside", [False, True])
def test_a_journal_of_an_earlier_version_goes_on_without_a_format(tmp_path: Path, is_aside: bool) -> None:
    passages = list(corpus(4)())
    journal = Journal(HashEncoder(), tmp_path / "j")
    journal.encode_passages(passages)
    journal.close()
    if is_aside:
        journal = Journal(HashEncoder("other"), tmp_path / "j")
        journal.encode_passages(passages)
        journal.close()
    encoder = Formatted("float32")
    journal = Journal(encoder, tmp_path / "j")
    journal.encode_passages(passages)
    assert (journal.dtype, encoder.encoded) == ("", [])
    journal.remove()


def test_a_store_without_a_format_opens(tmp_path: Path) -> None:
    write(tmp_path, encoder=Formatted("float32"))
    forget_format(tmp_path / STORE_FILE)
    assert VectorStore.open(tmp_path).compute_dtype == ""
