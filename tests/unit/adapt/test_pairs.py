"""The pairs that adaptation learns from: in memory and on the disk, and the warnings about what they cannot teach."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llama2vec.adapt.pairs import Pairs, check_followed, read_pairs, warn_of_cut_texts
from llama2vec.adapt.settings import AdaptConfig, ObjectiveSettings
from llama2vec.config import load_config
from llama2vec.data.examples.spool import Spool
from llama2vec.errors import EmptyCorpusError, EmptyTargetsError
from llama2vec.records import AdaptationExample, Passage
from llama2vec.training.output import StageWork

STREAMED = pytest.mark.parametrize("streaming", [False, True])


def read(passages: list[Passage], folder: Path, *, streaming: bool, **text: Any) -> Pairs:
    text = {"min_words": 4, "streaming": streaming, "held_out": 0.0, **text}
    config = load_config(AdaptConfig, None, [f"text.{name}={str(value).lower()}" for name, value in text.items()])
    work = cast("StageWork", SimpleNamespace(begin=lambda: folder))
    return read_pairs(config, work, passages)


def numbered(ids: list[str]) -> list[Passage]:
    return [Passage(one, f"Here stands sentence number {one} of many. A follower of {one} stands here.") for one in ids]


@STREAMED
def test_a_small_corpus_is_never_held_out_whole(streaming: bool, tmp_path: Path) -> None:
    passages = numbered([f"a-{number}" for number in range(4)])
    pairs = read(passages, tmp_path, streaming=streaming, held_out=0.999, max_words=12)
    assert len(pairs.training) > 1
    assert (list(pairs.held_out), pairs.out, pairs.followed) == ([], 0, len(pairs.training))


@STREAMED
def test_both_ways_of_reading_give_the_same_pairs(streaming: bool, tmp_path: Path) -> None:
    passages = numbered([f"d{number}-{part}" for number in range(40) for part in (1, 2)])
    pairs, kept = (read(passages, tmp_path, streaming=one, held_out=0.3) for one in (streaming, False))
    assert (list(pairs.training), list(pairs.held_out)) == (kept.training, kept.held_out)
    assert pairs.out == len(kept.held_out) > 0


@STREAMED
def test_a_corpus_without_text_is_an_error(streaming: bool, tmp_path: Path) -> None:
    with pytest.raises(EmptyCorpusError, match="no text to learn from"):
        read([Passage("a", " ")], tmp_path, streaming=streaming)


@STREAMED
def test_documents_whose_numbers_do_not_begin_at_0_or_1_are_held_out_one_by_one(
    streaming: bool, tmp_path: Path
) -> None:
    passages = numbered([f"MED-{number}" for number in range(10, 2010, 10)])
    assert 30 < read(passages, tmp_path, streaming=streaming, held_out=0.3).out < 90


def test_texts_without_spaces_are_as_long_in_the_spool_as_their_signs(tmp_path: Path) -> None:
    passages = [Passage("long", "羊驼是安第斯山脉的骆驼科动物。" * 3), Passage("short", "它们满足时会哼鸣。")]
    pairs = read(passages, tmp_path, streaming=True, language="zh", draw_lengths=False)
    assert isinstance(pairs.training, Spool)
    assert pairs.training.sizes(0, 2) == [42, 8]


EXAMPLE, ALONE = AdaptationExample("a", "b"), AdaptationExample("a", "")


@pytest.mark.parametrize(
    ("followed", "message"),
    [
        (0, "no training text has another one of its document behind it to predict: the NEXT prompt is not trained; "),
        (4, "only 4 of 100 training texts has"),
        (10, ""),
    ],
)
def test_a_prompt_that_too_few_texts_train_is_named(
    followed: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = Pairs([EXAMPLE] * followed + [ALONE] * (100 - followed), [], 0, followed)
    check_followed(pairs, ObjectiveSettings())
    assert (message in caplog.text) if message else not caplog.text
    assert caplog.text.count("encoder.query_prompt=self") == bool(message)
    caplog.clear()
    check_followed(pairs, ObjectiveSettings(next_weight=0))
    assert not caplog.text


def test_nothing_to_learn_is_an_error() -> None:
    with pytest.raises(EmptyTargetsError, match=r"objective\.self_weight is 0: nothing to learn; give long documents"):
        check_followed(Pairs([ALONE] * 3, [], 0, 0), ObjectiveSettings(self_weight=0))


def test_texts_that_are_cut_are_counted_once_each(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    long, short = "stone bridge " * 40, "river"
    examples = [AdaptationExample(short, long), AdaptationExample(long, short), AdaptationExample(short, "")]
    config = AdaptConfig()
    with caplog.at_level(logging.WARNING, "llama2vec"):
        warn_of_cut_texts(examples, config, tokenizer, 32)
    assert "reads only the beginning of 1 of 2 texts (50 %)" in caplog.text
    assert "after 32 tokens is neither read nor predicted; lower text.max_words" in caplog.text
    caplog.clear()
    warn_of_cut_texts(examples, config, tokenizer, 128)
    assert "raise text.max_tokens or lower text.max_words" in caplog.text
    caplog.clear()
    warn_of_cut_texts(examples[-1:], config, tokenizer, 128)
    assert not caplog.text
