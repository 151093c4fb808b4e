"""Every public data set this project is developed on, against the counts in its README."""

import gzip
import itertools
from pathlib import Path

import pytest

from llama2vec.data.corpus.passages import count_passages, read_passages
from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.tasks.beir import check_judged_passages, read_beir
from llama2vec.data.tasks.sts import read_sentence_pairs
from llama2vec.data.tasks.trec import read_qrels

DATA = Path(__file__).resolve().parents[3] / "../shared/data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared data sets are not at {DATA}")

# folder → (passages, {split: (queries, judgments)})
BEIR = {
    "cranfield": (1400, {"test": (225, 1837), "test_binary": (225, 1612), "test_smart": (225, 1837)}),
    "scifact": (5183, {"train": (809, 919), "test": (300, 339)}),
    "cacm": (3204, {"test": (52, 796)}),
    "msmarco-5k": (5000, {"test": (43, 4102)}),
    "medquad": (15803, {"train": (12958, 14160), "dev": (784, 846), "test": (1232, 1346)}),
    "squad-dev": (6795, {"test": (10529, 10532)}),
    "xquad-en": (240, {"test": (1190, 1190)}),
}


@pytest.mark.parametrize("name", BEIR)
def test_a_beir_folder_has_the_documented_counts(name: str) -> None:
    passages, splits = BEIR[name]
    ids = {passage.id for passage in read_passages(DATA / name)}
    assert len(ids) == passages == count_passages(DATA / name)
    assert {path.stem for path in (DATA / name / "qrels").iterdir()} == splits.keys()
    for split, (queries, judgments) in splits.items():
        task = read_beir(DATA / name, split)
        assert (len(task.queries), sum(map(len, task.qrels.values()))) == (queries, judgments)
        check_judged_passages(task.qrels, ids)


def test_cranfield_keeps_its_negative_pairs_as_gain_zero() -> None:
    gains = [
        gain for by_passage in read_qrels(DATA / "cranfield/qrels/test.tsv").values() for gain in by_passage.values()
    ]
    assert gains.count(0) == 225
    assert max(gains) == 4


@pytest.mark.parametrize(
    ("name", "passages", "documents", "with_successor"),
    [
        ("wiki/train.jsonl.gz", 54635, 5534, 49101),
        ("wiki/dev.jsonl", 1105, 108, 997),
        ("docs/openstax.jsonl.gz", 12439, 623, 11816),
    ],
)
def test_a_passage_file_has_the_documented_counts(
    name: str, passages: int, documents: int, with_successor: int
) -> None:
    ids = [passage.id.rsplit("-", 1)[0] for passage in read_passages(DATA / name)]
    assert (len(ids), len(set(ids))) == (passages, documents)
    assert sum(one == two for one, two in itertools.pairwise(ids)) == with_successor


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_sts_benchmark_has_the_documented_counts(language: str) -> None:
    pairs = [read_sentence_pairs(DATA / f"stsb/{language}-{split}.tsv") for split in ("train", "dev", "test")]
    assert [len(part) for part in pairs] == [5749, 1500, 1379]
    assert all(0 <= pair.score <= 5 for part in pairs for pair in part)


def test_a_pairs_file_is_not_mistaken_for_a_corpus() -> None:
    path = DATA / "pairs/nq-qed.jsonl"
    with pytest.raises(Exception, match=r'nq-qed\.jsonl:1 has no "_id"'):
        next(read_passages(path))


def test_a_text_with_another_line_separator_stays_whole() -> None:
    with gzip.open(DATA / "scifact/corpus.jsonl.gz", "rt", encoding="utf-8", newline="\n") as stream:
        lines = sum(1 for _ in stream)
    assert lines == count_passages(DATA / "scifact")


@pytest.mark.parametrize(
    ("name", "examples"),
    [
        ("pairs/squad-sentences.jsonl.gz", 11804),
        ("pairs/squad-passages.jsonl.gz", 3997),
        ("pairs/nq-qed.jsonl", 1355),
        ("pairs/pubmedqa.jsonl.gz", 1000),
        ("pairs/scitldr.jsonl.gz", 5386),
        ("pairs/wiki-vital-leads.jsonl.gz", 9995),
        ("pairs/openstax-glossary.jsonl", 2147),
        ("pairs/nq-sample.jsonl", 10),
        ("pairs/msmarco-sample.jsonl", 10),
        ("scifact", 809),
    ],
)
def test_training_examples_have_the_documented_counts(name: str, examples: int) -> None:
    assert sum(1 for _ in read_examples(DATA / name)) == examples
