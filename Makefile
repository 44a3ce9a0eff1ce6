# The project's commands; `make` alone lists them. They need CPython 3.11 or newer, a C compiler and
# pip, and keep to a virtual environment of their own for each Python version: .venv-3.12, say.
#
#   make test                    with python3
#   make test PYTHON=python3.13  with another one
#   make test DISTEX_BUILD=debug with another build of the core, see setup.py

PYTHON ?= python3
# ci: as .ci/run wants it, 10,000 examples for the tests of framing, longer storms and races, and
# 1,000 workers on 20 hosts
export PROFILE ?= local
# processes that share the tests, which wait a lot; 0: this one runs them alone, and stops at
# breakpoints
JOBS ?= $(shell echo $$((2 * $$(nproc))))
# seconds for each test; 10,000 examples take their time
TIMEOUT := $(if $(filter ci,$(PROFILE)),600,60)
export DISTEX_BUILD ?= release
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# all paths are relative, so that the checkout may have spaces in its name
VERSION := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv-$(VERSION)
RUN := $(VENV)/bin/python
# cython-lint looks for pycodestyle on PATH
WITH_TOOLS := PATH="$$PWD/$(VENV)/bin:$$PATH"

# stamps in the virtual environment: it is complete, this build of the core is in it, so are the tools
MADE := $(VENV)/made
BUILT := $(VENV)/built-$(DISTEX_BUILD)
DEV := $(VENV)/group-dev

# builds of the core beside the one that is used
ASAN := build/with-asan-$(VERSION)
FUZZ := build/with-fuzz-$(VERSION)
LIBASAN := $$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)
SANITIZERS := PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 \
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
PYTEST := $(WITH_TOOLS) $(RUN) -m pytest -q -n $(JOBS) --timeout $(TIMEOUT) --hypothesis-profile $(PROFILE)
TIMES ?= 50
SECONDS ?= 300
FUZZ_SECONDS ?= 60

.PHONY: help demo test suite repeat lint ruff mypy stubtest cython-lint tools
.PHONY: soak fuzz sanitize bench bench-quick docs dist clean

help:
	@echo 'make demo         install, and run the examples'
	@echo 'make test         install, check style and types, and run all tests'
	@echo 'make lint         the part of it that checks style and types; suite: the part that runs tests'
	@echo 'make repeat       all tests TIMES=50 times in a row, until one fails'
	@echo 'make soak         storms and races for SECONDS=300; fuzz: the fuzzer for FUZZ_SECONDS=60'
	@echo 'make sanitize     the tests of the core under address and undefined behaviour sanitizers'
	@echo 'make bench        measure against other pools; bench-quick: the same in short'
	@echo 'make docs         build the documentation into build/docs'
	@echo 'make dist         build sdist and wheel, and try the wheel'
	@echo 'make clean        remove what was built, the virtual environments too'
	@echo 'PYTHON=python3.13 picks the interpreter, DISTEX_BUILD=debug|trace|asan the build'

demo: $(BUILT)
	@echo '--- examples/stream.py: an async iterator through the pool'
	@$(RUN) examples/stream.py
	@echo '--- examples/parse_stdlib.py: the standard library, parsed three ways'
	@$(RUN) examples/parse_stdlib.py

# all at the same time; what each has to say comes in one piece
lint: $(BUILT) $(DEV)
	@$(MAKE) --no-print-directory -j --output-sync ruff mypy stubtest cython-lint

ruff:
	$(RUN) -m ruff check -q --output-format concise .

# with a cache of its own: stubtest opens the usual one meanwhile, which is locked while it is new
mypy:
	$(RUN) -m mypy --strict --cache-dir .mypy_cache/strict distex

stubtest:
	$(RUN) -m mypy.stubtest distex._core --mypy-config-file pyproject.toml \
		--allowlist tests/typing/stubtest-allowlist.txt

cython-lint:
	$(WITH_TOOLS) cython-lint _core distex/_core

tools: $(DEV)

test: lint
	$(PYTEST)

suite: $(BUILT) $(DEV)
	$(PYTEST)

repeat: $(BUILT) $(DEV)
	@for i in $$(seq $(TIMES)); do $(PYTEST) > build/repeat.log || { cat build/repeat.log; exit 1; }; \
		echo "$$i of $(TIMES): $$(tail -n 1 build/repeat.log)"; done

soak: $(BUILT) $(DEV)
	SECONDS=$(SECONDS) $(RUN) tests/soak.py

# by the script, as 'python -m' would find the checkout's own distex first
sanitize: $(ASAN)/built $(DEV)
	LD_PRELOAD="$(LIBASAN)" $(SANITIZERS) PYTHONPATH=$(ASAN) $(VENV)/bin/pytest -q tests/unit --timeout 600 \
		$(addprefix --ignore tests/unit/test_,functions.py imports.py modules.py) \
		-p no:cacheprovider --capture=sys --hypothesis-profile sanitize

fuzz: $(FUZZ)/built $(DEV) $(VENV)/group-fuzz
	LD_PRELOAD="$$PWD/$(FUZZ)/coverage.so $(LIBASAN)" $(SANITIZERS) PYTHONPATH=$(FUZZ) \
		FUZZ_COVERAGE=$(FUZZ)/coverage.so FUZZ_CORPUS=build/fuzzing/corpus \
		FUZZ_SECONDS=$(FUZZ_SECONDS) $(RUN) tests/fuzz/fuzz.py $(FUZZ_FILE)

bench: $(BUILT) $(DEV)
	$(RUN) -m bench

bench-quick: $(BUILT) $(DEV)
	$(RUN) -m bench --quick

# a page that is missing, or a name that autodoc does not find, is an error
docs: $(BUILT) $(VENV)/group-docs
	$(RUN) -m sphinx -q --fail-on-warning --keep-going --fresh-env docs build/docs

dist: $(DEV)
	rm -rf dist build/try
	$(RUN) -m build
	$(RUN) -m venv build/try
	build/try/bin/python -m pip install -q dist/*.whl
	cd build && try/bin/python -m distex
	cd build && try/bin/distex_proc

clean:
	rm -rf build dist *.egg-info .venv-[0-9]* distex/_core/*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find distex tests bench examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(MADE):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo '$(PYTHON) is no CPython 3.11 or newer: name one with PYTHON=...' >&2; exit 1; }
	@echo 'Python $(VERSION): making $(VENV)'
	@"$(PYTHON)" -m venv --clear $(VENV)
	@# dependency groups came with pip 25.1
	@$(RUN) -m pip install -q --upgrade 'pip>=25.1'
	@touch $@

$(BUILT): pyproject.toml setup.py $(wildcard _core/*.pyx distex/_core/*.pxd) | $(MADE)
	@echo 'Python $(VERSION): building distex ($(DISTEX_BUILD)), which takes about a minute'
	@rm -f $(VENV)/built-*
	@$(RUN) -m pip install -q -e .
	@touch $@

# elsewhere than the build that is used, so that it stays
$(ASAN)/built $(FUZZ)/built: build/with-%-$(VERSION)/built: pyproject.toml setup.py \
		$(wildcard _core/*.pyx distex/*.py distex/*/*.py distex/_core/*.pxd tests/fuzz/coverage.c) | $(MADE)
	@echo 'Python $(VERSION): building distex ($*), which takes about a minute'
	@DISTEX_BUILD=$* $(RUN) -m pip install -q --no-deps --upgrade --target $(@D) .
	@gcc -shared -fPIC -O2 -o $(@D)/coverage.so tests/fuzz/coverage.c
	@touch $@

$(VENV)/group-%: pyproject.toml | $(MADE)
	@echo 'Python $(VERSION): installing the tools for $*'
	@$(RUN) -m pip install -q --group $*
	@touch $@
