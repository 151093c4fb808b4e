"""What `remove` takes out, and how it is known again."""

from __future__ import annotations

from llama2vec.records import Passage
from llama2vec.retrieve.syncing.inventory import FileRecord
from llama2vec.retrieve.syncing.removals import still_removed, while_skipped, without

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
    assert list(still_removed(twice, PASSAGES, same_plan=True).places) == [2, 3, 4]
    otherwise = [PASSAGES[1], *PASSAGES]
    assert list(still_removed(twice, otherwise, same_plan=False).places) == [3, 4, 5]
    assert without(twice, [0, 1], PASSAGES[:2]).removed == "all"


EARLIER = RECORD.model_copy(update={"passages": 4, "removed": (1,)})
"""An earlier version kept places alone."""


def test_places_without_texts_count_only_under_the_settings_that_they_were_made_with() -> None:
    assert list(still_removed(EARLIER, PASSAGES, same_plan=True).places) == [1]
    otherwise = still_removed(EARLIER, PASSAGES, same_plan=False)
    assert (otherwise.places, otherwise.missing, otherwise.unknown) == ({}, (), 1)


def test_a_text_that_is_removed_later_is_known_beside_a_place_that_an_earlier_version_kept() -> None:
    later = without(EARLIER, [2], [PASSAGES[0], *PASSAGES[2:]])
    assert (later.removed, later.removed_texts[0], len(later.removed_texts)) == ((1, 3), "", 2)
    otherwise = still_removed(later, [PASSAGES[4], *PASSAGES], same_plan=False)
    assert (list(otherwise.places), otherwise.unknown) == ([4], 1)


def test_a_file_that_is_read_again_gives_the_texts_that_an_earlier_version_did_not_keep() -> None:
    earlier = RECORD.model_copy(update={"passages": 4, "removed": (2,)})
    later = without(earlier, [3], [*PASSAGES[:2], *PASSAGES[3:]])  # The last of three equal texts
    again = still_removed(later, PASSAGES, same_plan=True)
    at_once = without(RECORD, [2, 4], PASSAGES)
    assert (tuple(again.places), tuple(again.places.values())) == (at_once.removed, at_once.removed_texts)
    assert (again.missing, again.unknown) == ((), 0)


def test_texts_that_a_split_does_not_show_are_missing_and_stay_known_through_the_next_removal() -> None:
    record = without(RECORD, [0, 3], PASSAGES)
    split = still_removed(record, PASSAGES[:3], same_plan=False)
    assert (list(split.places), split.missing) == ([0], record.removed_texts[1:])
    texts = (*split.places.values(), *split.missing)
    now = RECORD.model_copy(update={"passages": 2, "removed": (0,), "removed_texts": texts})
    assert now.removals == 2
    assert list(still_removed(without(now, [0], PASSAGES[1:3]), PASSAGES, same_plan=False).places) == [0, 1, 3]


def test_a_file_that_is_skipped_under_other_settings_keeps_the_texts_and_not_the_places_without_one() -> None:
    later = without(EARLIER, [2], [PASSAGES[0], *PASSAGES[2:]])
    assert while_skipped(later, same_plan=True)["removed"] == (1, 3)
    skipped = later.model_copy(update={**while_skipped(later, same_plan=False), "passages": 0})
    found = still_removed(skipped, PASSAGES, same_plan=True)
    assert (skipped.removed, list(found.places), found.unknown) == ((), [3], 1)
    assert while_skipped(EARLIER, same_plan=False) == {"sha256": "", "removed": (1,)}
