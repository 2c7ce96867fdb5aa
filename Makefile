# make demo            run the quick pipeline on a simulated particle  (MAP=5j0n or a file, PROFILE=paper, ARGS=...)
# make lab             start JupyterLab at the overview of the notebooks
# make test            run the tests                                   (ARGS="-k gauge")
# make bench           run the benchmarks, write docs/benchmarks.md    (EXTRAS=dev,astra,baselines includes peers)
# make site            build the web site in docs/_build/html          (PROFILE=quick executes at default size)
# make aligner         build a stand-alone program that aligns particles, in build/aligner/
# make lint            check style and layers                          (make format repairs style)
# make install         only install
#
# Each target first creates .venv and installs the project in it, if necessary. PYTHON=... is the interpreter to use,
# EXTRAS=dev,gpu are the extras to install.

VENV = .venv
EXTRAS = dev,astra,site
PROFILE = quick
MAP =
ARGS =
PYTHON =

comma := ,
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
IS_3_11 := -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'

.DEFAULT_GOAL := help
.PHONY: help install demo test lab bench site aligner lint format

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@found=; for candidate in $(PYTHON) python3.11 python3 python; do \
	  if "$$candidate" $(IS_3_11) 2>/dev/null; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "cryoem needs Python 3.11; none of '$(PYTHON) python3.11 python3 python' is Python 3.11." >&2; \
	  echo "Install it, or use make PYTHON=path/to/python3.11 ... (for conda, see environment.yml)" >&2; \
	  exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV) || { rm -f $@; exit 1; }

$(INSTALLED): pyproject.toml | $(BIN)/python
	@$(BIN)/python $(IS_3_11) || { \
	  echo "$(VENV) has $$($(BIN)/python --version), but cryoem needs Python 3.11; remove $(VENV) and try again." >&2; \
	  exit 1; \
	}
	@echo "Installing into $(VENV), which takes a few minutes the first time"
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[$(EXTRAS)]"
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/cryoem run --profile $(PROFILE)$(if $(MAP), --map '$(MAP)')$(if $(ARGS), $(ARGS))

# Two processes more than there are cores, because tests wait for kernels and browsers; each computes on one core. The
# tests of a module stay together, because they share results.
test: TESTERS = $(shell $(BIN)/python -c "import os; print(min(8, os.cpu_count() + 2))")
test: export OMP_NUM_THREADS = 1
test: export OPENBLAS_NUM_THREADS = 1
test: export NUMBA_NUM_THREADS = 1
test: export TF_NUM_INTRAOP_THREADS = 1
test: export TF_NUM_INTEROP_THREADS = 1
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks/index.ipynb $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python benchmarks/write_page.py --run

site: PROFILE = toy
site: $(INSTALLED)
	$(BIN)/python docs/build_site.py --profile $(PROFILE)$(if $(ARGS), $(ARGS))

aligner: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[program]"
	$(BIN)/python tools/aligner/build.py $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
