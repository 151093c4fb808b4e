"""What `remove` takes out, and how it is known again."""

from __future__ import annotations

from llama2vec.records import Passage
from llama2vec.retrieve.syncing.inventory import FileRecord
from llama2vec.retrieve.syncing.removals import removed_places, without

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
    assert list(removed_places(twice, PASSAGES, same_plan=True)) == [2, 3, 4]
    otherwise = [PASSAGES[1], *PASSAGES]
    assert list(removed_places(twice, otherwise, same_plan=False)) == [3, 4, 5]
    assert without(twice, [0, 1], PASSAGES[:2]).removed == "all"


def test_places_without_texts_count_only_under_the_settings_that_they_were_made_with() -> None:
    earlier = RECORD.model_copy(update={"passages": 4, "removed": (1,)})
    assert list(removed_places(earlier, PASSAGES, same_plan=True)) == [1]
    assert removed_places(earlier, PASSAGES, same_plan=False) == {}
    later = without(earlier, [0], [PASSAGES[0], *PASSAGES[2:]])
    assert (later.removed, later.removed_texts) == ((0, 1), ())
