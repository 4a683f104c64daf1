# Everything goes through uv, which is fetched into .uv/ with nothing but python3 and venv.
PYTHON ?= python3
UV     := .uv/bin/uv
RUN    := $(UV) run --no-sync --no-default-groups
PACKAGES := kernel recall butd clear crumb remind
MARK ?=
GOLDEN ?=
# Exit code 5: nothing carries the mark.
PYTEST = @run() { OMP_NUM_THREADS=1 $(RUN) python -m pytest -q $(MARK) $(if $(GOLDEN),--golden-dir $(GOLDEN)) "$$1" || [ $$? -eq 5 ]; }; run

# Where Python may write no bytecode (so in many containers), every start would compile torch anew: 5 s of CPU time.
ifdef PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE := 1
endif

.PHONY: help setup setup-demo demo check test test-slow test-gpu fix bench docs wheels clean

help:
	@echo "make demo       RECALL keeps what it learnt where fine-tuning forgets (less than two minutes after set-up)"
	@echo "make test       every test that is not marked slow"
	@echo "make test-slow  the slow ones;  make test-gpu  those that need an accelerator"
	@echo "make check      formatting, lint, types, import rules"
	@echo "make bench      benchmarks, results in bench/results/"
	@echo "make docs       the documentation site in site/"

$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check "uv>=0.5"

# A lock file of an older checkout may not fit the pins any more; it is only a memory of the last resolution.
setup: $(UV)
	@$(UV) sync --quiet --no-default-groups --group all 2>/dev/null \
	  || { rm -f uv.lock && $(UV) sync --quiet --no-default-groups --group all; }

setup-demo: $(UV)
	@.venv/bin/python -c "import cl_plugin_recall, importlib.util; assert importlib.util.find_spec('tensorflow')" 2>/dev/null \
	  || { $(UV) sync --quiet --no-default-groups --package cl-plugin-recall \
	  && .venv/bin/python -c "import cl_plugin_recall.method.recall"; }

demo: setup-demo
	.venv/bin/clk run --plugin recall --test ADD_ONE_FIVE_TIMES

check: setup
	$(RUN) ruff format --check --quiet .
	$(RUN) ruff check --quiet .
	$(RUN) mypy
	$(RUN) lint-imports

# One process a package, two at a time: TensorFlow and PyTorch never meet, and each test gets one core.
test: setup
	@$(MAKE) --no-print-directory -k -j2 -O $(PACKAGES:%=test-%)

test-slow: setup
	@$(MAKE) --no-print-directory -k -j2 -O $(PACKAGES:%=test-%) MARK="-m slow"

test-gpu: setup
	@$(MAKE) --no-print-directory -k $(PACKAGES:%=test-%) MARK="-m gpu"

test-kernel:
	$(PYTEST) tests

test-%:
	$(PYTEST) plugins/$*

fix: setup
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: setup
	for script in bench/[a-z]*.py; do $(RUN) python $$script || exit 1; done

docs: setup
	$(RUN) mkdocs build --strict --site-dir site

wheels: $(UV)
	$(UV) build --all-packages --wheel --out-dir dist

clean:
	rm -rf dist build site .pytest_cache .mypy_cache .ruff_cache
