"""What every command shares: help, version, exit codes, and a terminal that gets only printable text."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from running import CommandLine
from storing import write

import llama2vec
from llama2vec.cli import COMMAND_GROUPS, COMMANDS, app

SAID_BY_EACH_COMMAND = {
    "--bm25", "--corpus", "--depth", "--engine", "--from", "--index", "--language", "--metric", "--mode", "--model",
    "--name", "--output", "--overwrite", "--queries", "--recipe", "--seed", "--set", "--split", "--task", "--timeout",
}  # fmt: skip
SAID_ONCE = ("--data-root", "--device", "--dtype", "--json", "--list-settings", "--prompts", "--strict", "--where")
TOGETHER = [
    ("--set", "--list-settings"), ("--list-settings", "--set"), ("--dtype", "--device"), ("--device", "--dtype"),
    ("--task", "--data-root"), ("--output", "--overwrite"), ("--half", "--int8"),
]  # fmt: skip
LOADED = "import sys; sys.argv[1:] = {}; from llama2vec.cli import main\ntry: main()\nexcept SystemExit: print({})"

NO_MODEL = "nothere: neither a folder here nor in the hub's cache"
MISTAKES = {
    "ask nothere question": "nothere: no such file or folder; check the path",
    "ask rows.jsonl question --model nothere": NO_MODEL,
    "adapt --model LLM --corpus nothere": "nothere: no such file or folder; give a BEIR folder",
    "adapt --model nothere --corpus rows.jsonl": NO_MODEL,
    "adapt --model llama2vec-smolm2-135m --corpus rows.jsonl": "did you mean 'llama2vec-smollm2-135m'? ",
    "adapt --model LLM --corpus rows.jsonl -o taken": "taken: exists and does not hold an adaptation",
    "adapt --model LLM --corpus rows.jsonl -o taken/rows.jsonl": "taken/rows.jsonl: exists and does not hold",
    "adapt nothere": "nothere: no such recipe",
    "finetune --model LLM --data nothere.jsonl": "nothere.jsonl: no such file or folder; give a .jsonl",
    "finetune --model nothere --data pairs.jsonl": NO_MODEL,
    "finetune --model LLM --data pairs.jsonl -o taken": "taken: exists and does not hold a fine-tuning",
    "mine nothere --model nothere --corpus rows.jsonl -o mined.jsonl": "nothere: no such file or folder; give a .jsonl",
    "mine pairs.jsonl --model nothere --corpus missing -o mined.jsonl": "missing: no such file or folder",
    "mine pairs.jsonl --model nothere --corpus rows.jsonl -o mined.jsonl": NO_MODEL,
    "mine pairs.jsonl --model nothere -o rows.jsonl": "rows.jsonl: exists and does not hold a file of mined examples",
    "mine pairs.jsonl --model nothere -o mined.txt": "mined.txt cannot hold training examples",
    "mine pairs.jsonl --store nothere -o mined.jsonl": "no index at nothere",
    "generate nothere -o new.jsonl": "nothere: no such file or folder; give a BEIR folder",
    "generate rows.jsonl --model nothere -o new.jsonl": NO_MODEL,
    "generate rows.jsonl --model LLM -o rows.jsonl": "the input rows.jsonl is the output itself",
    "generate rows.jsonl --model LLM -o pairs.jsonl": "pairs.jsonl: exists and does not hold a file of generated",
    "run run-cpu-minutes --model LLM --corpus nothere": "nothere: no such file or folder; give a BEIR folder",
    "run run-cpu-minutes --model nothere --corpus rows.jsonl": NO_MODEL,
    "run run-cpu-minutes --model LLM --corpus rows.jsonl --from nothere": "--from nothere: this run has no such stage",
    "run run-cpu-minutes --model LLM --corpus rows.jsonl -o taken": "taken: exists and does not hold a run",
    "verify nothere": "nothere: no llama2vec.json; verify needs the folder",
    "verify taken --backend nothere": "--backend nothere: unknown backend",
    "verify taken --backend http": "--url and --backend http belong together",
    "verify taken --backend onnx": "taken: no export for onnx",
    "verify taken -o rows.jsonl --overwrite": "rows.jsonl does not hold a result of `llama2vec verify`",
    "export nothere -o new": NO_MODEL,
    "export LLM -o new": "has no llama2vec.json; give an encoder that llama2vec saved",
    "export LLM -o taken": "taken: exists and does not hold an exported encoder",
    "export nothere --to faiss -o new": "no vector store at nothere",
    "compact nothere -o new": NO_MODEL,
    "compact LLM --base nothere -o new": NO_MODEL,
    "compact LLM -o taken": "taken: exists and does not hold a compact encoder",
    "card nothere": "nothere has no llama2vec.json",
    "serve nothere": "no index at nothere",
    "serve --model nothere --port 0": NO_MODEL,
    "encode nothere rows.jsonl -o new": NO_MODEL,
    "encode LLM nothere -o new": "nothere: no such file or folder; give a BEIR folder",
    "encode LLM rows.jsonl -o taken": "taken: exists and does not hold a vector store",
    "index nothere -o new": "no vector store at nothere",
    "search nothere question": "no index at nothere",
    "evaluate nothere --task beir/nothere": "unknown task or folder 'beir/nothere'",
    "sync nothere new": "nothere: no such file or folder; check the path",
    "sync taken new --model nothere": NO_MODEL,
    "distill nothere --queries missing -o new": "missing: no such file or folder",
    "distill nothere --queries rows.jsonl -o new": NO_MODEL,
    "distill LLM --queries rows.jsonl -o taken": "taken: exists and does not hold a query table",
    "explain nothere -q question -p passage": NO_MODEL,
    "rerank nothere --model nothere --queries rows.jsonl --corpus rows.jsonl -o new": "nothere cannot be read",
    "compare nothere other --qrels missing": "missing cannot be read",
}
"""A wrong call → what it says; ``LLM`` is a model that is there."""
WITHOUT_TORCH = """
import contextlib, io, json, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise AssertionError(f"imports {name}")

sys.meta_path.insert(0, Refused())
from llama2vec.cli import main

for call in json.load(sys.stdin):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main(call)
    except SystemExit as end:
        print(json.dumps([end.code, said.getvalue()]))
    except AssertionError as fault:
        print(json.dumps([1, str(fault)]))
"""


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_lists_every_command_on_one_line_each(command_line: CommandLine, option: str) -> None:
    done = command_line(option)
    assert done.code == 0
    lines = done.out.splitlines()
    for name, what in COMMANDS.items():
        assert [line for line in lines if line.split()[:1] == [name]] == [f"  {name:<9} {what}"]
    assert max(map(len, lines)) <= 80


def test_the_help_groups_the_commands_under_headings(command_line: CommandLine) -> None:
    listed = command_line("--help").out.partition("Options:")[2].split("\n\n")[1:]
    headings = {group.splitlines()[0]: [line.split()[0] for line in group.splitlines()[1:]] for group in listed}
    assert headings == {f"{heading}:": list(commands) for heading, commands in COMMAND_GROUPS.items()}
    assert len(headings) == 6
    assert max(map(len, headings.values())) <= 6


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_within_80_columns(command_line: CommandLine, name: str) -> None:
    done = command_line(name, "-h")
    assert done.code == 0
    assert f"Usage: llama2vec {name}" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def options() -> dict[str, dict[str, Any]]:
    """Return each option's long name → command → the option there."""
    group: Any = typer.main.get_command(app)
    found: dict[str, dict[str, Any]] = {}
    for verb in COMMANDS:
        for option in group.get_command(None, verb).params:
            for name in option.opts:
                if name.startswith("--"):
                    found.setdefault(name, {})[verb] = option
    return found


def test_an_option_is_a_flag_in_every_command_or_in_none() -> None:
    kinds = {name: {bool(option.is_flag) for option in found.values()} for name, found in options().items()}
    assert {"--json", "--output", "--set"} <= kinds.keys()
    assert {name for name, found in kinds.items() if len(found) > 1} == set()


def test_an_option_has_one_help_text_and_one_default_but_where_it_depends_on_the_command() -> None:
    everywhere = options()
    # The usual number format of `verify` is that of the golden vectors.
    assert everywhere["--dtype"].pop("verify").default == "saved"
    texts = {name: {option.help for option in found.values()} for name, found in everywhere.items()}
    assert {name for name, found in texts.items() if len(found) > 1} == SAID_BY_EACH_COMMAND
    defaults = {name: {str(option.default) for option in found.values()} for name, found in everywhere.items()}
    assert {name for name in SAID_ONCE if len(defaults[name]) > 1} == set()


@pytest.mark.parametrize(("option", "other"), TOGETHER)
def test_a_command_with_one_option_has_the_other(option: str, other: str) -> None:
    found = options()
    assert found[option].keys() - found[other].keys() == set()


def test_every_command_that_reads_texts_with_any_model_takes_prompts() -> None:
    # `search` and `rerank` take a model whose reading is known already.
    verbs = {"ask", "mine", "read", "encode", "sync", "explain", "serve", "evaluate", "distill"}
    assert options()["--prompts"].keys() == verbs


def test_an_output_has_a_short_name_everywhere() -> None:
    assert {verb for verb, option in options()["--output"].items() if "-o" not in option.opts} == set()


@pytest.mark.parametrize("verb", sorted(options()["--set"]))
def test_the_keys_of_set_are_listed_with_a_description_each(command_line: CommandLine, verb: str) -> None:
    lines = command_line(verb, "--list-settings").out.splitlines()
    keys = [line.partition(" = ")[0] for line in lines if not line.startswith(" ")]
    bare = [line for line, after in zip(lines, [*lines[1:], ""], strict=True) if line[:1] != " " != after[:1]]
    assert bare == []
    assert len(keys) == len(set(keys))
    named = re.findall(
        r"\b([a-z_]+(?:\.[a-z0-9_]+)+|pooling|passage_max_tokens|language|stores)\b", options()["--set"][verb].help
    )
    assert named
    assert set(named) - set(keys) == set()


def test_a_value_of_thousands_of_characters_does_not_bury_what_is_wrong(command_line: CommandLine) -> None:
    line = command_line.refused("verify", "y" * 20_000)
    assert "y" * 90 in line
    assert "…" in line
    assert len(line) < 600


def test_an_output_that_is_a_link_to_itself_is_one_line(command_line: CommandLine, tmp_path: Path) -> None:
    write(tmp_path / "store")
    (tmp_path / "loop").symlink_to("loop")
    assert "loop" in command_line.refused("index", tmp_path / "store", "-o", tmp_path / "loop")
    assert {path.name for path in tmp_path.iterdir()} == {"store", "loop"}


def test_the_version_is_printed(command_line: CommandLine) -> None:
    assert command_line("--version").out == f"llama2vec {llama2vec.__version__}\n"


def test_a_misspelt_command_is_corrected(command_line: CommandLine) -> None:
    done = command_line("serach")
    assert done.code == 2
    assert "Did you mean 'search'?" in done.err


def test_help_and_version_load_no_command() -> None:
    for arguments in (["-h"], ["--version"]):
        loaded = "sorted(name for name in sys.modules if name in ('torch', 'pydantic', 'numpy'))"
        code = LOADED.format(arguments, loaded)
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert found.stdout.splitlines()[-1] == "[]"


def test_a_mistake_is_told_before_torch_and_transformers_are_imported(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"_id": "1", "title": "", "text": "Bees make honey."}\n', encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text('{"query": "bees", "pos": ["Bees make honey."]}\n', encoding="utf-8")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "rows.jsonl").write_bytes((tmp_path / "rows.jsonl").read_bytes())
    calls = [[str(llama_folder) if word == "LLM" else word for word in shlex.split(call)] for call in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], input=json.dumps(calls), capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "LLAMA2VEC_CACHE": str(tmp_path / "cache")}, timeout=600,
    )  # fmt: skip
    said = dict(zip(MISTAKES, map(json.loads, done.stdout.splitlines()), strict=True))
    wrong = {call: said[call] for call, words in MISTAKES.items() if said[call][0] != 2 or words not in said[call][1]}
    assert wrong == {}


def test_an_argument_that_is_not_utf8_is_one_line() -> None:
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"llama2vec.cli", b"search", b"s", b"caf\xe9"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == b"llama2vec: argument 3 is not valid UTF-8: 'caf\\udce9'; check the terminal's encoding\n"


def test_a_closed_pipe_and_a_full_disk_end_without_a_traceback() -> None:
    command = [sys.executable, "-m", "llama2vec.cli", "-h"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(b"llama2vec: No space left on device")
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("in_a_terminal", [False, True])
def test_a_pipe_gets_the_same_escaped_text_as_a_terminal(tmp_path: Path, in_a_terminal: bool) -> None:
    name = "\x1b[31mred\x1b[0m\x1b]0;owned\x07.jsonl"
    (tmp_path / name).write_text('{"query": "a", "pos": ["b"], "neg": []}\n', encoding="utf-8")
    command = [sys.executable, "-m", "llama2vec.cli", "check", name]
    if in_a_terminal:
        import pty

        ours, theirs = pty.openpty()
        with subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=theirs) as running:
            running.wait(60)
        os.close(theirs)
        shown = os.read(ours, 1 << 16).decode().replace("\r\n", "\n")
        os.close(ours)
    else:
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "\x1b" not in shown
    assert "Checked \\x1b[31mred\\x1b[0m\\x1b]0;owned\\x07.jsonl: 1 row, no problems" in shown


def test_an_escape_sequence_in_a_path_is_shown_and_not_obeyed(command_line: CommandLine) -> None:
    line = command_line.refused("check", "\x1b]0;owned\x07.jsonl")
    assert "\x1b" not in line
    assert "\\x1b]0;owned\\x07.jsonl: no such file or folder" in line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("search", "i", "--depth", "0"), "llama2vec: --depth 0: input should be greater than or equal to 1"),
        (("search", "i", "--depth", "x"), "llama2vec: --depth x: input should be a valid integer"),
        (("search", "i", "q", "--depth", 10**30), f"{10**30} is too large; the limit is 2,147,483,647"),
        (("compare", "a", "b", "--seed", 2**31), f"{2**31} is too large; the limit is 2,147,483,647"),
        (("verify", "m", "--tolerance", "nan"), "llama2vec: --tolerance nan: "),
        (("run", "--flops", "inf"), "inf is not a finite number"),
        (("encode", "m", "c", "-o", "s", "--shard-size", 10**20), "is too large"),
        (("search",), "missing argument"),
        (("encode", "m", "c", "--nonsense"), "no such option: --nonsense"),
        (("serve", "i", "--port", "70000"), "llama2vec: --port 70000: "),
        (("serve", "i", "--max-texts", 10**30), f"{10**30} is too large"),
        (("serve", "i", "--timeout", "1e300"), "--timeout 1e300: input should be less than or equal to 86400"),
        (("serach",), "no such command 'serach'"),
        (("adapt", "--set", f"optimizer.seed={2**32}"), "optimizer.seed: Input should be less than 4294967296"),
        (("adapt", "--set", f"optimizer.steps={10**30}"), "is too large; the limit is 2,147,483,647"),
        (("mine", "e", "-o", "o", "--set", f"mine.negatives={2**31}"), f"mine.negatives: {2**31} is too large"),
        (("mine", "e", "-o", "o", "--set", f"mine.seed={10**30}"), "mine.seed: Input should be less than 4294967296"),
        (("finetune", "--set", f"contrastive.dimensions=[{10**30}]"), f"{10**30} is too large"),
    ],
)
def test_a_wrong_option_is_one_line(command_line: CommandLine, arguments: tuple[object, ...], line: str) -> None:
    found = command_line.refused(*arguments)
    assert line in found
    assert "Usage" not in found


def test_a_wrong_option_says_where_the_options_are_listed(command_line: CommandLine) -> None:
    assert command_line.refused("search", "i", "--depth", "0").endswith("; see `llama2vec search --help`")
    assert command_line.refused("serach").endswith("; see `llama2vec --help`")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")]
)
def test_a_full_memory_is_one_line(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("llama2vec.data.examples.report.inspect_examples", fail)
    assert "the memory is full; lower batch or shard sizes" in command_line.refused("check", "data.jsonl")


@pytest.mark.parametrize(
    ("verb", "settings"),
    [
        ("adapt", ("lower objective.micro_batch_tokens, or",)),
        ("finetune", ("lower contrastive.graph_tokens and contrastive.micro_batch_tokens, or",)),
        ("run", ("lower adapt.objective.micro_batch_tokens", "finetune.contrastive.graph_tokens")),
    ],
)
@pytest.mark.parametrize("cuda", [True, False])
def test_a_full_memory_in_training_names_what_may_change_before_it_resumes(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, verb: str, settings: tuple[str, ...], cuda: bool
) -> None:
    message = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB, process 12 has …"

    def fail(_: object) -> None:
        raise RuntimeError(message) if cuda else MemoryError

    monkeypatch.setattr("llama2vec.cli._run", fail)
    line = command_line.refused(verb, "recipe.toml")
    assert all(named in line for named in (*settings, "model.gradient_checkpointing", "the same command"))
    assert line.endswith("(CUDA out of memory: Tried to allocate 2.50 GiB)") == cuda


@pytest.mark.parametrize(
    ("call", "resumes"),
    [
        ("adapt -o out", True),
        ("rerank a.trec --model m -o b.trec --task t", True),
        ("evaluate m --task t -o out", True),
        ("evaluate m --task t --output=out", True),
        ("evaluate m --task t --set stores=vectors", True),
        ("evaluate m --task t", False),
        ("mine pairs.jsonl -o out.jsonl --model m", True),
        ("mine pairs.jsonl -o out.jsonl --store s", False),
        ("search index --queries q.tsv --run r.trec", False),
        ("explain m -q a -p b", False),
    ],
)
def test_ctrl_c_promises_to_resume_only_where_something_is_kept(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, call: str, resumes: bool
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llama2vec.cli._run", interrupted)
    line = "interrupted; rerun the same command to resume" if resumes else "interrupted"
    done = command_line(*call.split())
    assert (done.code, done.err) == (130, f"{line}\n")


def test_without_a_command_the_help_is_shown(command_line: CommandLine) -> None:
    done = command_line()
    assert done.code == 2
    assert "Usage: llama2vec" in done.out + done.err
