"""What `remove` takes out, and how it is known again."""

from __future__ import annotations

from llama2vec.records import Passage
from llama2vec.retrieve.syncing.inventory import FileRecord
from llama2vec.retrieve.syncing.removals import still_removed, without

TEXTS = ("same", "one", "same", "two", "same")
PASSAGES = [Passage(f"a.md#{number}", text) for number, text in enumerate(TEXTS)]
RECORD = FileRecord(path="a.md", sha256="aa", passages=len(TEXTS))


def test_passages_that_are_removed_one_after_the_other_are_found_again_by_text_and_order() -> None:
    once = without(RECORD, [2, 3], PASSAGES)
    assert (once.passages, once.removed) == (3, (2, 3))
    left = [PASSAGES[0], PASSAGES[1], PASSAGES[4]]
    twice = without(once, [2], left)
    assert (twice.passages, twice.removed, len(twice.removed_texts)) == (2, (2, 3, 4), 3)
    at_once = without(RECORD, [2, 3, 4], PASSAGES)
    assert twice == at_once
    assert list(still_removed(twice, PASSAGES).places) == [2, 3, 4]
    otherwise = [PASSAGES[1], *PASSAGES]
    assert list(still_removed(twice, otherwise).places) == [3, 4, 5]
    assert without(twice, [0, 1], PASSAGES[:2]).removed == "all"


def test_texts_that_a_split_does_not_show_are_missing_and_stay_known_through_the_next_removal() -> None:
    record = without(RECORD, [0, 3], PASSAGES)
    split = still_removed(record, PASSAGES[:3])
    assert (list(split.places), split.missing) == ([0], record.removed_texts[1:])
    texts = (*split.places.values(), *split.missing)
    now = RECORD.model_copy(update={"passages": 2, "removed": (0,), "removed_texts": texts})
    assert now.removals == 2
    assert list(still_removed(without(now, [0], PASSAGES[1:3]), PASSAGES).places) == [0, 1, 3]
