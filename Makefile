# Two commands: `make book` and `make test`. `make help` lists the rest.
#
# Variables (make book PYTHON=python3.12):
#   PYTHON       the Python to start from, 3.11 or newer
#   TORCH_INDEX  an extra package index for torch. On Linux the plain `torch` brings several GB
#                of CUDA libraries; the PyTorch install page names the index of the CPU build.
#                The environment variable PIP_EXTRA_INDEX_URL does the same.
#   CONSTRAINTS  the file of pinned versions (/dev/null for the newest of everything)
#   ARGS         passed on: make test ARGS="-k influence", make book ARGS="--only tasks/adult"

PYTHON ?= $(or $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& { echo "$$p"; break; }; done),python3)
CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=
ARGS ?=
EXTRAS := book,baselines,tabular,data,llm,test
NEED_MB ?= 3000
FREE_MB ?= $(shell df -Pk . | awk 'NR == 2 { print int($$4 / 1024) }')

BIN := .venv/bin
STAMP := .venv/.installed
BASE = $(if $(shell [ -x $(BIN)/python ] && echo yes),$(BIN)/python,$(PYTHON))

.PHONY: help venv book test lint format links clean
.NOTPARALLEL:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile
	@echo; sed -n 's/^#   /  /p' Makefile

venv: $(STAMP) ## set up .venv with the pinned versions (the others do it by themselves)

book: $(STAMP) ## run the notebooks that changed, render the book to _build/html/index.html
	@$(BIN)/python book/build.py $(ARGS)

# Whole files side by side, in their order: what the tests of a file share is made once, and the
# book, which takes longest, begins early.
test: $(STAMP) ## run all tests
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP) ## check style, spelling, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(STAMP) ## put the code into the common style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

links: $(STAMP) ## check every link of the book (needs the network)
	@$(BIN)/python book/build.py --links $(ARGS)

clean: ## remove everything that was built (keeps .venv)
	@rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(BASE) -c '' >/dev/null 2>&1 || { \
	  echo "Python not found: '$(BASE)' does not run. Install Python 3.11 or newer," \
	       "or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(BASE) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "'$(BASE)' is too old (`$(BASE) -V 2>&1`), 3.11 or newer is needed." \
	       "Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(BASE) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(BASE)' cannot make virtual environments: its venv module is missing" \
	       "(on Debian and Ubuntu it is the package python3-venv)." >&2; exit 1; }
	@[ "$(FREE_MB)" -ge "$(NEED_MB)" ] || { \
	  echo "Only $(FREE_MB) MB are free on this disk, setting up needs $(NEED_MB) MB." \
	       "Free some space and run the command again." >&2; exit 1; }
	@# A .venv without pip is one whose making was interrupted: it is made again.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a minute or two the first time) ..."
	@$(BIN)/python .ci/install.py -c $(CONSTRAINTS) \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[$(EXTRAS)]' || { \
	  $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 15))' && echo "`$(BIN)/python -V`" \
	       "is newer than those supported, 3.11 to 3.14. To take one of these, remove .venv" \
	       "and name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@# Compiled on all cores, but for what nobody imports: tests, and most language models. A file
	@# of another Python in some package is no failure.
	@$(BIN)/python -m compileall -q -j 0 -x '/tests/|/transformers/models/(?!auto|encoder|qwen2)' \
	  .venv/lib >/dev/null 2>&1 || true
	@touch $@
