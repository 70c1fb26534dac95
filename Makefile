# emu: everything is kept in .venv/ and build/. `make demo` and `make test` set up what they need.
# On Debian: apt install python3-venv python3-dev gcc make
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PROTOCOLS := none ebusy mr-revoke
# Python sources are used in place (editable install); a change of these needs a build.
SOURCES := pyproject.toml meson.build meson.options $(shell find csrc -type f 2>/dev/null)

.PHONY: demo test lint bench mutants native sanitize clean proof long fuzz diagrams dev help

help:
	@echo "make demo       the comparison on live processes, with a report in runs/demo"
	@echo "make test       the tests; minutes"
	@echo "make lint       ruff and mypy"
	@echo "make sanitize   the C programs under ASan, UBSan and TSan"
	@echo "make mutants    every wrong protocol, core and engine must be caught; a minute"
	@echo "make proof      mutants; every interleaving of two reclaims, with two holders where that closes; 10,000 random stories; two hours"
	@echo "make long       the same interleavings with two MRs each; hours, and 10 GiB of memory a search"
	@echo "make fuzz       random scripts of the core under every protocol; ten minutes (SECONDS=N)"
	@echo "make bench      speed beside memcpy and ZeroMQ"
	@echo "make diagrams   the drawings of the docs made anew"
	@echo "make dev        everything for work on emu itself;  make native: the C programs;  make clean"

# What builds the package (pyproject's build requirements) lives in the same environment, so that builds are incremental. An environment
# that was never ready, or whose pip is broken, is somebody's who was killed in the middle: it is made again from the beginning.
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "emu needs Python 3.11 or later; PYTHON=/path/to/python3 make ..." >&2; exit 64; }
	@echo "emu: setting up $(VENV)"
	@{ test -e $@ && $(BIN)/python -m pip --version >/dev/null 2>&1; } || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } || \
	  { rm -rf $(VENV); echo "python3 -m venv failed; on Debian: apt install python3-venv" >&2; exit 64; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  > $(VENV)/build-requires.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r $(VENV)/build-requires.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.ready $(SOURCES)
	@echo "emu: building"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install -q --disable-pip-version-check \
	  --no-build-isolation -Cbuild-dir=build -e . || \
	  { echo "the build failed; a C compiler and Python's headers are needed: apt install gcc python3-dev" >&2; exit 64; }
	@touch $@

$(VENV)/.test: $(VENV)/.ready
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group test
	@touch $@

$(VENV)/.lint: $(VENV)/.ready
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group lint --group test
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/emu compare --quick --out runs/demo --html runs/demo/report.html --json runs/demo/result.json

test: $(VENV)/.installed $(VENV)/.test native
	@cd tests && ../$(BIN)/python -m pytest -c ../pyproject.toml --rootdir .. . $(ARGS)

lint: $(VENV)/.installed $(VENV)/.lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The C test programs, plain and under the sanitizers.
native: $(VENV)/.ready
	@PATH="$(CURDIR)/$(BIN):$$PATH"; test -e build-native/build.ninja || \
	  { rm -rf build-native; meson setup build-native -Dnative_tests=true >/dev/null; }; \
	  meson test -C build-native --no-suite long -q

sanitize: $(VENV)/.ready
	@PATH="$(CURDIR)/$(BIN):$$PATH"; for s in address,undefined thread; do d=build-$${s%%,*}; \
	  test -e $$d/build.ninja || rm -rf $$d; test -d $$d || meson setup $$d -Dnative_tests=true -Db_sanitize=$$s -Db_lundef=false --buildtype=debugoptimized >/dev/null; \
	  meson test -C $$d -q || exit 1; done

bench: $(VENV)/.installed
	@$(BIN)/emu bench --json -

# Every wrong protocol, core and engine that the checks must catch, and the right ones that they must not (docs/mutants.md);
# and the protocols of strangers that `make test` leaves out.
mutants: $(VENV)/.installed $(VENV)/.test
	@$(BIN)/emu check --self-test
	@cd tests && ../$(BIN)/python -m pytest -c ../pyproject.toml --rootdir .. -m long check/mutants

# Every protocol and event with two reclaims and a crash: with two holders where that is known to close, else with one, as pinned in
# tests/check/explorer/pins.json; that reductions change nothing; and 10,000 seeds of some protocols. Before them the world of mr-revoke in Spin
# (docs/spin.md; without Spin it says that it is skipped, and exits 77). Pins and figures are written by prove.py --pin alone.
proof: mutants
	@$(BIN)/python docs/proof/spin/compare.py || test $$? -eq 77
	@$(BIN)/python tests/check/explorer/prove.py
	@$(BIN)/python tests/check/explorer/prove.py --agreement
	@for protocol in $(PROTOCOLS); do $(BIN)/emu simulate $$protocol --seeds 10000 || exit 1; done

long: $(VENV)/.installed
	@$(BIN)/python tests/check/explorer/prove.py --mrs 2

# Every request, backing and protocol in random order, until the time is over; a finding is told with its seed (tests/core/fuzz.py).
fuzz: $(VENV)/.installed
	@$(BIN)/python tests/core/fuzz.py --seconds $(or $(SECONDS),600)

# The drawings of the docs, from the tables that run and the stories that the explorer tells.
diagrams: $(VENV)/.installed
	@$(BIN)/python docs/diagrams.py

# For work on emu itself: the package and every tool. Imports rebuild changed C files.
dev: $(VENV)/.installed $(VENV)/.test $(VENV)/.lint

clean:
	rm -rf $(VENV) build build-native build-address build-thread runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
