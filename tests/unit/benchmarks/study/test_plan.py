"""Which cells a study has, in which order, and how long they should take."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.study.cells import Arm, Cell, adapted, cell_of, chosen, plan, raw_mean, tuned
from benchmarks.study.command import main
from benchmarks.study.estimates import Pace, minutes
from benchmarks.study.models import adapt_config, finetune_config
from benchmarks.study.protocol import ALL_PAIRS, BUDGETS, Protocol, load_protocol
from benchmarks.study.results import Results, no_results
from llama2vec.errors import ConfigError
from llama2vec.manifest import machine

ROOMS = ("cells", "pairs")


@pytest.mark.parametrize("name", ROOMS)
def test_the_examples_in_docstrings_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"benchmarks.study.{name}"))
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("budget", sorted(path.stem for path in BUDGETS.glob("*.toml")))
def test_the_question_itself_comes_first_and_every_cell_once(budget: str) -> None:
    protocol = load_protocol(budget)
    cells = plan(protocol)
    assert len(cells) == len(set(cells)) == len({cell.key for cell in cells})
    assert [cell.arm.adaptation for cell in cells[:2]] == ["bm25", "minilm"]
    both, none = adapted(protocol, "both"), adapted(protocol, "none")
    wanted = {Cell(raw_mean())}
    wanted |= {Cell(arm, seed) for seed in protocol.plan.seeds for arm in (both, tuned(both), tuned(none))}
    assert set(cells[2 : 2 + len(wanted)]) == wanted
    assert cells.index(Cell(tuned(both), 0)) < cells.index(Cell(both, 1))


def test_every_part_recipe_stage_and_point_of_the_curves_is_in_the_plan() -> None:
    protocol = load_protocol("gpu")
    arms = {cell.arm for cell in plan(protocol)}
    for recipe in ("paper", "released"):
        for part in ("none", "ebae", "ebar", "both"):
            assert {adapted(protocol, part, recipe), tuned(adapted(protocol, part, recipe))} <= arms
    assert {arm.steps for arm in arms} == {0, 50, 100, 200, 500, 1000}
    assert {arm.pairs for arm in arms} == {0, 500, 2000, 10_000, ALL_PAIRS}
    assert {arm.adaptation for arm in arms if arm.stage == "corpus"} == {"none", "both"}


def test_keys_read_back_and_others_are_refused() -> None:
    for cell in plan(load_protocol("cpu")):
        assert cell_of(cell.key) == cell
    with pytest.raises(ConfigError, match="does not name a cell of the study"):
        cell_of("adaptation=both seed=0")
    with pytest.raises(ConfigError, match="does not name a cell of the study"):
        cell_of("reference=other")


def test_terms_choose_cells_and_wrong_ones_say_what_there_is() -> None:
    cells = plan(load_protocol("cpu"))
    found = chosen(cells, ["adaptation=both,ebae", "seed=0", "stage=labels", "recipe=paper", "steps=32", "pairs=all"])
    assert [cell.arm.adaptation for cell in found] == ["both", "ebae"]
    assert [cell.arm.adaptation for cell in chosen(cells, ["reference=bm25"])] == ["bm25"]
    for terms, message in (
        (["seeds=0"], "did you mean 'seed'"),
        (["seed=7"], "no seed '7'; choose from 0, 1, 2"),
        (["adaptation=bot"], "did you mean 'both'"),
        (["adaptation=none", "steps=32"], "fits all of these"),
    ):
        with pytest.raises(ConfigError, match=message):
            chosen(cells, terms)


def test_a_budget_with_a_typo_or_none_of_this_name_is_refused(tmp_path: Path, toy_file: Path) -> None:
    with pytest.raises(ConfigError, match="choose from choices, cpu, gpu"):
        load_protocol("tpu")
    broken = tmp_path / "broken.toml"
    broken.write_text(toy_file.read_text(encoding="utf-8").replace("max_queries", "max_query"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did you mean 'sets\.max_queries'"):
        load_protocol(str(broken))
    broken.write_text(
        toy_file.read_text(encoding="utf-8").replace('average = ["one"', 'average = ["on"'), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="average names on"):
        load_protocol(str(broken))


def test_more_seeds_and_points_leave_what_is_frozen_alone(toy: Protocol) -> None:
    more = toy.model_copy(update={"plan": toy.plan.model_copy(update={"seeds": [0, 1, 2, 3]})})
    assert more.frozen() == toy.frozen()
    longer = toy.model_copy(update={"finetuning": toy.finetuning.model_copy(update={"steps": 9})})
    assert longer.frozen() != toy.frozen()


def test_arms_differ_in_what_they_are_named_for_and_in_nothing_else(toy: Protocol) -> None:
    recipes = {part: adapt_config(toy, Cell(adapted(toy, part), 1)) for part in ("ebae", "ebar", "both")}
    assert (recipes["ebae"].objective.next_weight, recipes["ebar"].objective.self_weight) == (0, 0)
    assert {recipe.optimizer for recipe in recipes.values()} == {recipes["both"].optimizer}
    assert recipes["both"].optimizer.seed == 1
    assert recipes["ebar"].encoder.query_prompt == recipes["ebar"].encoder.passage_prompt == "next"
    released = adapt_config(toy, Cell(adapted(toy, "both", "released")))
    assert (released.prompts.slots, released.objective.language_model_weight) == (8, 1.0)
    second = [finetune_config(toy, Cell(tuned(adapted(toy, part)), 1), "m", 20) for part in ("none", "ebae", "both")]
    assert second[0] == second[1] == second[2]
    assert finetune_config(toy, Cell(tuned(adapted(toy, "both"), "corpus")), "m", 20).contrastive.negatives == 0


def test_few_pairs_are_not_read_more_often_than_the_budget_allows() -> None:
    stage = load_protocol("gpu").finetuning
    assert stage.steps_for(500) == 20
    assert stage.steps_for(10**6) == stage.steps


def test_expected_minutes_count_a_shared_start_once_and_learn_from_what_ran(
    toy: Protocol, made_results: Callable[..., Results]
) -> None:
    both = adapted(toy, "both")
    cells = [Cell(both), Cell(tuned(both)), Cell(tuned(adapted(toy, "none")))]
    nothing = no_results()
    expected = minutes(cells, nothing, Pace(nothing, toy), None)
    # 2 steps at 60 s and three sets at 30 s; 2 steps at 120 s and two sets; no adaptation.
    assert [expected[cell] for cell in cells] == pytest.approx([3.5, 5, 5])
    assert minutes(cells[1:], nothing, Pace(nothing, toy), None)[cells[1]] == pytest.approx(7)
    measured = made_results({(both, 0): {"one": [1.0, 0.5]}})
    measured["made_by"] = {"m": {"machine": machine()}}
    cell = measured["cells"]["toy"][Cell(both).key]
    cell["training"] = {"adapt": {"steps": 2, "seconds": 12.0, "machine": machine()}}
    faster = minutes(cells, measured, Pace(measured, toy), None)
    # Of the first cell one set is there: 2 steps at 6 s, two sets at 30 s. A set at 3 s and one at 30 s for the others.
    assert faster[cells[0]] == pytest.approx((12 + 60) / 60)
    assert faster[cells[2]] == pytest.approx((240 + 3 + 30) / 60)
    measured["made_by"]["m"]["machine"] = {"processor": "another"}
    assert minutes([cells[2]], measured, Pace(measured, toy), None)[cells[2]] == pytest.approx(5)


def test_the_plan_is_printed_without_data_or_results(
    toy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "--plan",
        "--budget",
        str(toy_file),
        "--output",
        str(tmp_path / "none.json"),
        "--cells",
        "adaptation=both",
    ]
    main(command)
    lines = capsys.readouterr().out.splitlines()
    assert "budget toy" in lines[0]
    assert "missing" in lines[0]
    assert "a first guess" in lines[0]
    assert len(lines) == 3 + len(chosen(plan(load_protocol(str(toy_file))), ["adaptation=both"]))
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to do"),
        (["--work", "work"], "--data"),
        (["--merge", "absent.json"], "no such file"),
        (["--budget", "tpu", "--plan"], "choose from choices, cpu, gpu"),
        (["--cells", "seed=99", "--plan"], "no seed '99'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_code_2(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--output", str(tmp_path / "study.json"), *more])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_raw_model_has_no_seeds_and_a_reference_no_fields() -> None:
    assert not raw_mean().is_trained
    assert tuned(raw_mean()).is_trained
    assert not Arm("bm25").is_trained
    assert list(Cell(Arm("bm25")).fields) == ["reference"]
