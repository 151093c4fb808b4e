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


def test_texts_that_newer_readers_end_otherwise_are_known_by_their_places() -> None:
    record = without(RECORD, [1, 2], PASSAGES)
    longer = [
        Passage(one.id, f"{one.text}\ncolor: red" if place < 2 else one.text) for place, one in enumerate(PASSAGES)
    ]
    found = still_removed(record, longer, same_split=True)
    assert (list(found.places), found.missing) == ([1, 2], ())
    texts = tuple(found.places.values())
    again = RECORD.model_copy(update={"passages": 3, "removed": tuple(found.places), "removed_texts": texts})
    assert list(still_removed(again, longer).places) == [1, 2]


def test_places_do_not_decide_where_a_removed_text_moved_or_the_file_has_another_number_of_passages() -> None:
    record = without(RECORD, [1, 3], PASSAGES)
    moved = [Passage("a.md#0", text) for text in ("one", "same", "same", "other", "same")]
    assert still_removed(record, moved, same_split=True).places.keys() == {0}
    fewer = [Passage("a.md#0", text) for text in ("same", "other", "same", "two")]
    assert still_removed(record, fewer, same_split=True).places.keys() == {3}
    other = [Passage("a.md#0", text) for text in ("same", "other", "same", "two", "same")]
    assert still_removed(record, other).places.keys() == {3}
    unread = record.model_copy(update={"skipped": "too large", "passages": 0})
    assert still_removed(unread, [Passage("a.md#0", text) for text in "ab"], same_split=True).places == {}
