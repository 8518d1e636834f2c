# Everything sets itself up: `make demo` on a bare Debian 12 or 13, as root, is enough.

PYTHON ?= /usr/bin/python3
export PYTHON
bin := .venv/bin
lab := PYTHONPATH=contrib $(bin)/python -m lab
sphinx := $(bin)/python -m sphinx -q -W --keep-going -d build/doctrees

.PHONY: help setup install uninstall deb demo lab lab-down test test-kernel simulate test-packaging lint docs man fuzz bench constraints clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Debian packages and the virtual environment, as far as they are missing
	@contrib/setup.sh

install: ## Install the daemon on this node (docs/install.md)
	@contrib/install.sh install

uninstall: ## Remove it; with PURGE=yes also /etc/fabricd
	@contrib/install.sh uninstall $(if $(PURGE),--purge)

deb: ## Build a Debian package in build/
	@contrib/debian/build.sh

demo: setup ## Build the fabric in network namespaces, ping through it, remove it
	@$(lab) demo $(ARGS)

lab: setup ## Build the fabric and leave it up
	@$(lab) up $(ARGS)

lab-down: setup ## Remove the fabric that `make lab` left up
	@$(lab) down $(ARGS)

test: lint ## Set-up, lint and every test but those of the packages
	$(bin)/pytest -n auto --durations=20 $(ARGS) || { test $$? = 1 -a -n "$(AGAIN)" && $(bin)/python -m tests.again; }

test-kernel: setup ## The tests with the kernel's own ESP, IPIP and systemd alone (User Mode Linux)
	$(bin)/pytest -n auto tests/kernel $(ARGS)

simulate: ## The whole daemon in simulated worlds: SEEDS=10000, or SEED=17 to see one
	@$(bin)/python -m tests.simulation $(if $(SEED),--seed $(SEED) --steps '$(STEPS)',--seeds $(or $(SEEDS),2000))

test-packaging: setup ## The Debian package and the images, built and run: some minutes more
	$(bin)/pytest -m packaging $(ARGS)

lint: setup ## Style, types and the floors between the packages
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports

docs: setup ## Build the documentation's site in build/docs
	@$(bin)/python docs/_ext/picture.py
	@$(sphinx) -b html docs build/docs

man: setup ## Build the man pages in build/man
	@$(sphinx) -b man docs build/man

fuzz: setup ## Look for input that breaks something: SECONDS=60 for each, or for one TARGET
	@PYTHONPATH=contrib $(bin)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(TARGET)

bench: setup ## The benchmarks
	@PYTHONPATH=contrib $(bin)/python -m tests.bench $(ARGS)

constraints: ## Resolve the dependencies anew, with hashes
	@contrib/constraints.sh

clean: ## Remove what was built; not what runs (make lab-down)
	rm -rf .venv .cache build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
