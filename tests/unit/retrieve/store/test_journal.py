"""Vectors that an interrupted sync has made are not made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from synced_folder import WIDTH, HashEncoder

from llama2vec.errors import StoreError
from llama2vec.records import Passage
from llama2vec.retrieve.store.journal import Journal

PASSAGES = [Passage(str(number), f"text {number % 7}", "title") for number in range(10)]
RECORD = 16 + 4 * WIDTH + 4


def test_what_was_written_down_is_read_back_and_not_encoded_again(tmp_path: Path) -> None:
    journal = Journal(HashEncoder(), tmp_path / "j")
    vectors = journal.encode_passages(PASSAGES[:4])
    journal.close()
    encoder = HashEncoder()
    journal = Journal(encoder, tmp_path / "j")
    np.testing.assert_array_equal(journal.encode_passages(PASSAGES), HashEncoder().encode_passages(PASSAGES))
    np.testing.assert_array_equal(journal.encode_passages(PASSAGES[:4]), vectors)
    # Texts 0 to 3 are known, and so are those that repeat them under another id.
    assert encoder.encoded == ["title text 4", "title text 5", "title text 6"]
    assert journal.encoded == 3
    journal.remove()
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("left", [0, 1, RECORD - 1, RECORD, 2 * RECORD + 5])
def test_what_a_kill_cut_off_is_dropped_and_the_rest_kept(tmp_path: Path, left: int) -> None:
    journal = Journal(HashEncoder(), tmp_path / "j")
    journal.encode_passages(PASSAGES[:3])
    journal.close()
    whole = (tmp_path / "j").read_bytes()
    head = len(whole) - 3 * RECORD
    (tmp_path / "j").write_bytes(whole[: head + left])
    encoder = HashEncoder()
    journal = Journal(encoder, tmp_path / "j")
    np.testing.assert_array_equal(journal.encode_passages(PASSAGES[:3]), HashEncoder().encode_passages(PASSAGES[:3]))
    journal.close()
    assert len(encoder.encoded) == 3 - left // RECORD
    assert (tmp_path / "j").read_bytes() == whole


def test_a_garbled_record_ends_the_journal_and_one_of_another_contract_is_kept_until_a_sync_succeeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(HashEncoder(), tmp_path / "j")
    journal.encode_passages(PASSAGES[:3])
    journal.close()
    damaged = bytearray((tmp_path / "j").read_bytes())
    damaged[-RECORD - 10] ^= 1
    (tmp_path / "j").write_bytes(damaged)
    for contract, missing in (("c0ffee", 2), ("another", 3), ("c0ffee", 0), ("another", 0)):
        encoder = HashEncoder(contract)
        journal = Journal(encoder, tmp_path / "j")
        journal.encode_passages(PASSAGES[:3])
        journal.close()
        assert len(encoder.encoded) == missing
    assert len(caplog.messages) == 3
    assert "made vectors with another model or other settings of it; they are kept until a sync succeeds" in caplog.text
    (tmp_path / "j.of-mine").write_text("")
    assert len(list(tmp_path.iterdir())) == 3
    Journal(HashEncoder("third"), tmp_path / "j").close()  # It made no vector, and leaves the others alone
    Journal(HashEncoder(), tmp_path / "j").remove()
    assert [path.name for path in tmp_path.iterdir()] == ["j.of-mine"]


def test_the_journal_counts_what_its_encoder_cuts(tmp_path: Path) -> None:
    class ReadsLittle(HashEncoder):
        def count_cut(self, passages: Sequence[Passage]) -> int:
            return sum(passage.id in "12" for passage in passages)

    for encoder, cut in ((ReadsLittle(), 2), (HashEncoder(), None)):
        journal = Journal(encoder, tmp_path / "j")
        assert journal.count_cut(PASSAGES) == cut
        journal.close()


def test_vectors_that_are_not_finite_are_never_written_down(tmp_path: Path) -> None:
    class Broken(HashEncoder):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            return np.where(np.arange(len(passages))[:, None] == 1, np.nan, super().encode_passages(passages))

    journal = Journal(Broken(), tmp_path / "j")
    with pytest.raises(StoreError, match="the vector of passage '1' is not finite"):
        journal.encode_passages(PASSAGES[:3])
    journal.close()
    assert not (tmp_path / "j").exists()
