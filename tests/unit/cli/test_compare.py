import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest
from compared import read_comparisons
from made_results import write_seeds
from running import CommandLine
from word_encoder import write_task

from llama2vec.cli.compare import _judgments_name
from llama2vec.data.corpus.passages import corpus_fingerprint
from llama2vec.data.tasks.beir import read_beir
from llama2vec.data.tasks.trec import write_run
from llama2vec.records import Run
from llama2vec.score.tasks import judgments_fingerprint

PASSAGES = {
    "p1": ("Camelids", "The llama is a domesticated camelid of the Andes."),
    "p2": ("", "A stone does not hum."),
    "p3": ("Wool", "Alpacas give fine wool. " * 30 + "They hum when they are content."),
    "p4": ("", "Rain falls in winter."),
}
QUERIES = {"q1": "what is a llama", "q2": "who hums", "q3": "when does rain fall", "q4": "which animal gives wool"}
JUDGED = {"q1": "p1", "q2": "p3", "q3": "p4", "q4": "p3"}
OLD = Run({"q1": {"p2": 2.0, "p1": 1.0}, "q2": {"p2": 2.0, "p3": 1.0}, "q3": {"p4": 1.0}, "q4": {"p3": 1.0}}, "old")
NEW = Run({"q1": {"p1": 2.0, "p2": 1.0}, "q2": {"p3": 2.0, "p2": 1.0}, "q3": {"p2": 2.0, "p4": 1.0}}, "new")

Outcome = tuple[int, str, str]


@pytest.fixture
def compare(command_line: CommandLine) -> Callable[..., Outcome]:
    """Run ``llama2vec compare``; return exit code, stdout and stderr."""
    return lambda *arguments: astuple(command_line("compare", *arguments))


@pytest.fixture
def refused(command_line: CommandLine) -> Callable[..., str]:
    """Run a comparison that must fail as a user's mistake does; return its one line."""
    return lambda *arguments: command_line.refused("compare", *arguments)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": name, "title": title, "text": text} for name, (title, text) in PASSAGES.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = [{"_id": name, "text": text} for name, text in QUERIES.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    lines = "".join(f"{query}\t{passage}\t1\n" for query, passage in JUDGED.items())
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}", encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "old.trec", tmp_path / "new.trec"
    for run, path in zip((OLD, NEW), paths, strict=True):
        write_run(run, path)
    return paths


def test_two_runs_are_compared_with_texts_and_written(
    compare: Callable[..., Outcome], beir: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    json_path = tmp_path / "out" / "c.json"
    code, out, err = compare(*runs, "--task", beir, "--metric", "MRR@10", "--output", json_path)
    assert (code, err) == (0, "")
    for part in (
        "tiny/test · MRR@10 · 4 judged queries",
        "new − old",
        "−0.125",
        "2/0/2",
        "+0.500  q1  (0.500 → 1.000)  what is a llama",
        "new 1. p1 [relevant (gain 1)] Camelids — The llama is a domesticated camelid of the Andes.",
        "−1.000  q4  (1.000 → 0.000)  which animal gives wool",
        "new: returned nothing",
    ):
        assert part in out, part
    assert out.endswith(f"Wrote {json_path}\n")
    (comparison,) = read_comparisons(json_path)
    assert comparison.per_query["new"] == {"q1": 1.0, "q2": 1.0, "q3": 0.5, "q4": 0.0}
    assert comparison.settings["unanswered_queries"] == {"old": 0, "new": 1}
    # The part of the text that the query asks for, not its beginning.
    telling = comparison.shown["q4"].answers["old"][0]
    assert (telling.title, len(telling.snippet) <= 160) == ("Wool", True)
    code, _, err = compare(*runs, "--task", beir, "--output", json_path)
    assert (code, "exists already" in err) == (2, True)
    assert compare(*runs, "--task", beir, "--output", json_path, "--overwrite")[0] == 0


def test_overwrite_replaces_comparisons_and_nothing_else(
    compare: Callable[..., Outcome], refused: Callable[..., str], beir: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    qrels, found, scores = beir / "qrels" / "test.tsv", tmp_path / "c.json", tmp_path / "scores.json"
    scores.write_text('{"format": "llama2vec-evaluation"}', encoding="utf-8")
    kept = {path: path.read_bytes() for path in (*runs, qrels, scores, beir / "corpus.jsonl")}
    for path in (*runs, qrels):
        assert "is the output itself" in refused(*runs, "--qrels", qrels, "--output", path, "--overwrite")
    line = refused(*runs, "--task", beir, "--output", scores, "--overwrite")
    assert "does not hold a comparison of runs" in line
    for path in (beir / "corpus.jsonl", beir / "qrels" / "new.json"):
        assert "lies inside the input" in refused(*runs, "--task", f"{beir}:test", "--output", path, "--overwrite")
    assert {path: path.read_bytes() for path in kept} == kept
    for metrics in (["MRR@10", "R@1"], ["R@1"], ["R@1"]):  # several comparisons in a file, then one
        options = [word for metric in metrics for word in ("--metric", metric)]
        assert compare(*runs, "--qrels", qrels, *options, "--output", found, "--overwrite")[0] == 0
        assert [one.metric for one in read_comparisons(found)] == metrics


def test_judgments_alone_are_enough_and_every_metric_gets_its_tables(
    compare: Callable[..., Outcome], beir: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    trec = tmp_path / "judged.txt"
    trec.write_text("".join(f"{query} 0 {passage} 1\n" for query, passage in JUDGED.items()), encoding="utf-8")
    found = tmp_path / "c.json"
    code, out, _ = compare(*runs, "--qrels", trec, "--metric", "MRR@10", "--metric", "R@1", "--output", found)
    assert code == 0
    assert [(one.task, one.metric) for one in read_comparisons(found)] == [("judged", "MRR@10"), ("judged", "R@1")]
    assert "judged · R@1 · 4 judged queries" in out
    assert "what is a llama" not in out
    why = "Passages are shown by their ids alone; to read them, name the task with --task\n"
    assert out.count(why) == 1
    # With the folder beside them, the texts come from there.
    out = compare(*runs, "--qrels", trec, "--task", beir)[1]
    assert ("what is a llama" in out, why in out) == (True, False)


def test_the_default_is_the_first_against_the_others_and_all_pairs_is_every_pair(
    compare: Callable[..., Outcome], beir: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    third = tmp_path / "third.trec"
    write_run(Run(OLD.results, "third"), third)
    out = compare(*runs, third, "--task", beir)[1]
    assert "third − old" in out
    assert "third − new" not in out
    assert "third − old: the same on every query (p = 1.0000 after Holm)." in out
    every = compare(*runs, third, "--task", beir, "--all-pairs")[1]
    assert "third − new" in every
    assert "after Holm over the 3 pairs" in every


def test_runs_with_one_tag_are_named_after_their_files(
    compare: Callable[..., Outcome], beir: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("a/x.trec", "b/x.trec", "b/y.trec.gz")]
    for path, run in zip(paths, (OLD, NEW, NEW), strict=True):
        plain = path.with_name(path.name.removesuffix(".gz"))
        write_run(Run(run.results, "llama2vec"), plain)
        if plain != path:
            path.write_bytes(gzip.compress(plain.read_bytes()))
    written = tmp_path / "c.json"
    assert compare(*paths, "--task", beir, "--output", written)[0] == 0
    [comparison] = read_comparisons(written)
    assert list(comparison.systems) == [f"{tmp_path}/{name}" for name in ("a/x", "b/x", "b/y")]


def test_reading_settings_need_a_task(refused: Callable[..., str], beir: Path, runs: tuple[Path, Path]) -> None:
    line = refused(*runs, "--qrels", beir / "qrels" / "test.tsv", "--set", "reading.text_field=body")
    assert "--set says how the corpus of --task is read, and no task is named; leave it out" in line


def test_runs_of_other_corpora_are_refused(
    refused: Callable[..., str], compare: Callable[..., Outcome], beir: Path, runs: tuple[Path, Path]
) -> None:
    def fingerprint(path: Path, value: str) -> None:
        settings = {"settings": {"corpus_fingerprint": value}}
        path.with_suffix(".json").write_text(json.dumps(settings), encoding="utf-8")

    fingerprint(runs[0], "a" * 64)
    # Nothing is known of the second run; the folder's corpus is another.
    assert compare(*runs, "--qrels", beir / "qrels" / "test.tsv")[0] == 0
    assert "belong to different corpora" in refused(*runs, "--task", beir)
    fingerprint(runs[1], "b" * 64)
    line = refused(*runs, "--qrels", beir / "qrels" / "test.tsv")
    assert f"{runs[0]} (aaaaaaaaaaaa) and {runs[1]} (bbbbbbbbbbbb) belong to different corpora" in line
    for path in runs:
        fingerprint(path, corpus_fingerprint(beir))
    assert compare(*runs, "--task", beir)[0] == 0
    with (beir / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": "p5", "text": "Later."}\n')
    assert "or one that changed" in refused(*runs, "--task", beir)


def test_the_task_has_the_name_that_both_evaluations_gave_it(
    compare: Callable[..., Outcome], beir: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    judged = judgments_fingerprint(read_beir(beir))
    for path, task, expected in zip(runs, ("beir/tiny", "beir/tiny"), ("tiny/test", "beir/tiny"), strict=True):
        content = {"task": task, "settings": {"judgments_fingerprint": judged}}
        path.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")
        assert f"{expected} · nDCG@10" in compare(*runs, "--task", beir)[1]
    # Other judgments are another task.
    test, deeper = beir / "qrels" / "test.tsv", tmp_path / "deeper.tsv"
    dev = beir / "qrels" / "dev.tsv"
    for path in (deeper, dev):
        path.write_text(f"{test.read_text(encoding='utf-8')}q1\tp2\t1\n", encoding="utf-8")
    assert "tiny/dev · nDCG@10" in compare(*runs, "--task", f"{beir}:dev")[1]
    for place in ([], ["--task", beir]):
        assert "deeper · nDCG@10" in compare(*runs, *place, "--qrels", deeper)[1]
    assert "beir/tiny · nDCG@10" in compare(*runs, "--task", beir, "--qrels", test)[1]


@pytest.mark.parametrize("name", ["beir/arguana", "mine"])
def test_passages_that_are_the_queries_count_as_in_evaluate(
    compare: Callable[..., Outcome], command_line: CommandLine, tmp_path: Path, name: str
) -> None:
    passages = {"1": "river stone", "2": "river bridge", "3": "stone bridge"}
    folder = write_task(
        tmp_path / "data" / name, passages, {"1": "river stone", "2": "bridge"}, {"1": {"2": 1}, "2": {"3": 1}}
    )
    task = name if name == "beir/arguana" else str(folder)
    root = ("--task", task, "--data-root", tmp_path / "data")
    paths, scores = [tmp_path / f"{system}.trec" for system in ("a", "b")], []
    write_run(Run({"1": {"1": 3.0, "2": 2.0}, "2": {"2": 2.0, "3": 1.0}}, "a"), paths[0])
    write_run(Run({"1": {"1": 3.0, "3": 2.0, "2": 1.0}, "2": {"3": 1.0}}, "b"), paths[1])
    for path in paths:
        out = tmp_path / f"scores-{path.stem}"
        assert command_line("evaluate", path, *root, "--metric", "MRR@10", "-o", out).code == 0
        (result,) = out.glob("*.json")
        scores.append(json.loads(result.read_text(encoding="utf-8"))["metrics"]["MRR@10"])
    # The second query has the id of a passage with another text: in a folder of one's own, that one stays.
    assert scores == ([1.0, 0.75] if name == "beir/arguana" else [0.75, 0.75])
    assert compare(*paths, *root, "--metric", "MRR@10", "--output", tmp_path / "c.json")[0] == 0
    [comparison] = read_comparisons(tmp_path / "c.json")
    assert list(comparison.systems.values()) == scores


@pytest.mark.parametrize("name", ["beir/arguana", "mine"])
def test_a_choice_about_passages_that_are_the_queries_counts_as_in_evaluate(
    compare: Callable[..., Outcome], refused: Callable[..., str], command_line: CommandLine, tmp_path: Path, name: str
) -> None:
    passages = {"1": "river stone", "2": "river bridge", "3": "stone bridge"}
    folder = write_task(
        tmp_path / "data" / name, passages, {"1": "river stone", "2": "bridge"}, {"1": {"2": 1}, "2": {"3": 1}}
    )
    root = ("--task", name if name == "beir/arguana" else str(folder), "--data-root", tmp_path / "data")
    runs = []
    for system in ("a", "b"):
        write_run(Run({"1": {"1": 3.0, "2": 2.0}, "2": {"3": 1.0}}, system), run := tmp_path / f"{system}.trec")
        for choice in ("false", "true"):
            out = tmp_path / f"{system}-{choice}"
            asked = (*root, "--metric", "MRR@10", "-o", out, "--set", f"exclude_same_id={choice}")
            assert command_line("evaluate", run, *asked).code == 0
            runs += out.glob("*.trec")
    for pair, score in ((runs[::2], 0.75), (runs[1::2], 1.0), ((runs[0], tmp_path / "b.trec"), 0.75)):
        out = tmp_path / f"{pair[0].parent.name}-{pair[1].parent.name}.json"
        assert compare(*pair, *root, "--metric", "MRR@10", "--output", out)[0] == 0
        [comparison] = read_comparisons(out)
        assert list(comparison.systems.values()) == [score, score]
    assert "(exclude_same_id=false) and" in (said := refused(runs[0], runs[3], *root))
    assert said.rstrip().endswith("(true) were scored differently; score one of them again")


@pytest.mark.parametrize("beside", ["no JSON", "[1]", '{"settings": 3}', '{"settings": {"corpus_fingerprint": 4}}'])
def test_other_files_beside_a_run_are_no_obstacle(
    compare: Callable[..., Outcome], beir: Path, runs: tuple[Path, Path], beside: str
) -> None:
    runs[0].with_suffix(".json").write_text(beside, encoding="utf-8")
    assert compare(*runs, "--task", beir)[0] == 0


def test_passages_that_the_corpus_lacks_are_told_and_most_of_them_refused(
    refused: Callable[..., str], compare: Callable[..., Outcome], beir: Path, runs: tuple[Path, Path],
    tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    strange = tmp_path / "strange.trec"
    write_run(Run({"q1": {"p1": 3.0, "x1": 2.0, "x2": 1.0}}, "strange"), strange)
    line = refused(runs[0], strange, "--task", beir)
    assert "run 'strange': " in line
    assert "lacks 2 of 3 passages that it returned" in line
    write_run(Run({"q1": {"p1": 3.0, "p2": 2.0, "x2": 1.0}}, "strange"), strange, overwrite=True)
    assert compare(runs[0], strange, "--task", beir)[0] == 0
    assert "lacks 1 of 3 passages that it returned" in caplog.text


def test_mistakes_are_one_line(
    refused: Callable[..., str], beir: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    def run_file(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    folder = ("--task", beir)
    assert "runs need judgments; give --task or --qrels FILE" in refused(*runs)
    assert "has no split 'tset'; choose from test" in refused(*runs, "--task", f"{beir}:tset")
    assert "did you mean 'beir/scifact'?" in refused(*runs, "--task", "beir/scfact")
    assert "runs belong to one retrieval task" in refused(*runs, "--task", "sts/stsb")
    assert "comparing needs at least two runs, not 1" in refused(runs[0], *folder)
    assert "flips is 999999999; choose 1 to 10,000,000" in refused(*runs, *folder, "--flips", 999999999)
    assert "is given twice" in refused(runs[0], runs[0], *folder)
    assert "did you mean nDCG?" in refused(*runs, *folder, "--metric", "nDGC@10")
    duplicate = run_file("d.trec", "q1 Q0 p1 1 2.0 d\nq1 Q0 p1 2 1.0 d\n")
    assert "d.trec:2 returns passage 'p1' for query 'q1' a second time" in refused(runs[0], duplicate, *folder)
    for score in ("nan", "inf", "-Infinity"):
        broken = run_file("n.trec", f"q1 Q0 p1 1 {score} n\n")
        assert f"n.trec:1 has the score '{score}'" in refused(runs[0], broken, *folder)
    assert "no id in common" in refused(runs[0], run_file("e.trec", "z Q0 p1 1 1.0 e\n"), *folder)
    apart = run_file("f.trec", "q1 Q0 p1 1 1.0 f\n"), run_file("g.trec", "q2 Q0 p1 1 1.0 g\n")
    assert "'f' and 'g' have no judged query in common" in refused(*apart, *folder)
    one = run_file("one.tsv", "q1\tp1\t1\n")
    assert "1 judged query is too few" in refused(*runs, "--qrels", one)
    assert "cannot be read" in refused(runs[0], tmp_path / "none.trec", *folder)


def test_comparing_never_loads_torch(beir: Path, runs: tuple[Path, Path]) -> None:
    import subprocess

    script = (
        "import sys\nfrom llama2vec.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, "compare", *map(str, runs), "--task", str(beir)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("file", "name"), [("data/cranfield/qrels/test.tsv", "cranfield/test"), ("dl19.txt.gz", "dl19")]
)
def test_a_judgment_file_names_the_task(file: str, name: str) -> None:
    assert _judgments_name(Path(file)) == name


def test_a_named_task_is_looked_for_below_the_data_root(
    beir: Path, runs: tuple[Path, Path], compare: Callable[..., Outcome], refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "data" / "beir").mkdir(parents=True)
    beir.rename(tmp_path / "data" / "beir" / "scifact")
    code, out, _ = compare(*runs, "--task", "beir/scifact", "--data-root", tmp_path / "data")
    assert (code, "beir/scifact" in out) == (0, True)
    assert "--data-root" in refused(*runs, "--task", "beir/scifact", "--data-root", tmp_path / "elsewhere")


def test_texts_are_read_by_the_fields_that_are_named(
    beir: Path, runs: tuple[Path, Path], compare: Callable[..., Outcome], refused: Callable[..., str]
) -> None:
    usual = compare(*runs, "--task", beir)
    assert "stone does not hum" in usual[1]
    for name in ("corpus", "queries"):
        rows = beir / f"{name}.jsonl"
        rows.write_text(rows.read_text(encoding="utf-8").replace('"text"', '"body"'), encoding="utf-8")
    assert "name its field (reading.text_field)" in refused(*runs, "--task", beir)
    assert compare(*runs, "--task", beir, "--set", "reading.text_field=body") == usual
    assert "compare takes reading.KEY alone" in refused(*runs, "--task", beir, "--set", "flips=3")


def test_folders_of_seeds_are_compared_and_written(
    compare: Callable[..., Outcome], refused: Callable[..., str], runs: tuple[Path, Path], tmp_path: Path
) -> None:
    first = write_seeds(tmp_path / "first", {0: {"adapted": [0.0, 0.5]}, 1: {"adapted": [0.5, 0.5]}})
    second = write_seeds(tmp_path / "second", {0: {"adapted": [1.0, 0.5]}, 1: {"adapted": [0.5, 0.5]}})
    code, out, err = compare(first, f"{second}:adapted", "--output", tmp_path / "c.json")
    assert (code, err) == (0, "")
    assert "tiny/test · nDCG@10 · 2 judged queries" in out
    why = "Passages are not shown for folders, whose values may be means over seeds; to read them, compare two runs: "
    assert out.count(f"{why}the .trec files in these folders, with --task\n") == 1
    for nothing_to_show in ("--passages", "--changed"):
        assert why not in compare(first, second, nothing_to_show, 0)[1]
    (comparison,) = read_comparisons(tmp_path / "c.json")
    assert [*comparison.systems.values()] == [0.375, 0.625]
    assert [pair.difference for pair in comparison.pairs] == [0.25]
    assert "new.trec is not a folder, and the others are" in refused(first, runs[1])
    assert "--ties belongs to runs, and these are folders" in refused(first, second, "--ties", "id")
    assert "--qrels belongs to runs" in refused(first, second, "--qrels", tmp_path / "x.tsv")


def test_equal_scores_are_ranked_as_by_trec_eval_or_by_id(
    compare: Callable[..., Outcome],
    refused: Callable[..., str],
    beir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "llama2vec")
    paths = [tmp_path / f"{name}.trec" for name in "ab"]
    write_run(Run({"q1": {"p1": 1.0, "p2": 1.0}, "q2": {"p3": 1.0}}, "a"), paths[0])
    write_run(Run({"q1": {"p1": 1.0}, "q2": {"p3": 1.0}}, "b"), paths[1])
    for ties, expected in {"trec_eval": 0.5, "id": 1.0}.items():
        chosen = [] if ties == "trec_eval" else ["--ties", ties]
        options = ["--task", beir, "--metric", "MRR@10", *chosen, "--output", tmp_path / f"{ties}.json"]
        caplog.clear()
        assert compare(*paths, *options)[0] == 0
        order = "descending id, as in trec_eval" if ties == "trec_eval" else "ascending id"
        line = f"run 'a' has equal scores above the cutoffs (of 4 queries: MRR@10 1); they are ranked by {order}"
        assert line in caplog.messages
        (comparison,) = read_comparisons(tmp_path / f"{ties}.json")
        assert comparison.per_query["a"]["q1"] == expected
        assert comparison.settings["ties"] == {"a": ties, "b": ties}
    assert "--ties rank: choose trec_eval or id" in refused(*paths, "--task", beir, "--ties", "rank")
