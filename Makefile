# make run: the app.  make test: every test.  make check: format, lint, types.  make fix: what can be put right by itself.
# make docs: the pages that follow from the code.  make fuzz: what reads strangers' files, with 100,000 of them.
# make space: the folder of a Hugging Face Space, in build/space.  make kernels: what is compiled when it is first used.

PYTHON ?= python3
PIP = .venv/bin/python -m pip install -qq --disable-pip-version-check
APT = $$(test "$$(id -u)" = 0 || echo sudo) env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0
SOURCES = $(wildcard merging ui tests bench docs zoo app.py)
TYPED = $(wildcard merging ui app.py)

.PHONY: run test check fix docs fuzz space kernels browser

run: .venv/installed
	@.venv/bin/python app.py

# Whole files go to each worker, since some start an app of their own; those of the browser, which take long, are first.
test: .venv/installed-dev browser
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto -m "not e2e"
	@.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m e2e tests/e2e tests/attacks

check: .venv/installed-dev
	@.venv/bin/ruff format --check $(SOURCES)
	@.venv/bin/ruff check $(SOURCES)
	@rm -f ui/*.pyi  # Gradio writes them beside our components when the app runs, and mypy would read them instead
	@.venv/bin/mypy $(TYPED)

fix: .venv/installed-dev
	@.venv/bin/ruff check --fix $(SOURCES)
	@.venv/bin/ruff format $(SOURCES)

fuzz: .venv/installed-dev
	@.venv/bin/python -m tests.attacks.fuzz 100000

docs: .venv/installed
	@.venv/bin/python docs/pages.py

space: .venv/installed
	@.venv/bin/python docs/space.py

kernels: .venv/installed-dev
	@.venv/bin/python -m merging.warming

# An empty file says that something was installed, and is older than the requirements when they have changed since.
.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || { \
	  echo "Mergescope needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)."; \
	  echo "Install one of them and name it: make $(or $(MAKECMDGOALS),run) PYTHON=python3.11"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make an environment. Install its venv package (on Debian: apt-get install python3-venv)."; \
	  exit 1; } >&2
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created requirements.txt
	@echo "Installing what the app needs; the first time takes some minutes."
	@$(PIP) -r requirements.txt
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	@echo "Installing what checks and tests need."
	@$(PIP) -r requirements-dev.txt
	@touch $@

# The browser tests drive a Chromium or Chrome that is on PATH, or the one that CHROMIUM names.
browser:
	@if [ -n "$$CHROMIUM" ] || command -v chromium >/dev/null || command -v google-chrome >/dev/null; then \
	  exit 0; \
	fi; \
	if command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || command -v sudo >/dev/null; }; then \
	  echo "Installing Chromium for the browser tests."; \
	  { $(APT) update && $(APT) install -y --no-install-recommends chromium >/dev/null; } || { \
	    echo "Chromium could not be installed. Install Chromium or Google Chrome, or name one: CHROMIUM=/path make test" >&2; \
	    exit 1; }; \
	else \
	  echo "The browser tests need a browser. Install Chromium or Google Chrome, or name one: CHROMIUM=/path make test" >&2; \
	  exit 1; \
	fi
