# make demo            the quick pipeline on a phantom particle    (MAP=5j0n, an own file, PROFILE=paper, ARGS=...)
# make lab             JupyterLab in notebooks/
# make test            the tests                                   (ARGS="-k gauge")
# make bench           the benchmarks, into docs/benchmarks.md     (EXTRAS=dev,astra,baselines for its peers)
# make site            the web site, into docs/_build/html         (PROFILE=quick for larger notebooks than toy)
# make lint            ruff, as the checks run it                  (make format repairs)
#
# Each makes .venv if it is missing and installs the project there. PYTHON=... names the interpreter to start from,
# EXTRAS=dev,gpu what to install beside the project.

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
.PHONY: help install demo test lab bench site lint format

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@found=; for candidate in $(PYTHON) python3.11 python3 python; do \
	  if "$$candidate" $(IS_3_11) 2>/dev/null; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "cryoem needs Python 3.11, and none of '$(PYTHON) python3.11 python3 python' is one." >&2; \
	  echo "Install it, or name it: make PYTHON=path/to/python3.11 ... (with conda: see environment.yml)" >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV) || { rm -f $@; exit 1; }

$(INSTALLED): pyproject.toml | $(BIN)/python
	@$(BIN)/python $(IS_3_11) || { \
	  echo "$(VENV) holds $$($(BIN)/python --version), but cryoem needs Python 3.11; remove $(VENV) and try again." >&2; \
	  exit 1; \
	}
	@echo "Installing into $(VENV): some minutes the first time"
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[$(EXTRAS)]"
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/cryoem run --profile $(PROFILE)$(if $(MAP), --map '$(MAP)')$(if $(ARGS), $(ARGS))

test: $(INSTALLED)
	$(BIN)/python -m pytest $(ARGS)

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python benchmarks/write_report.py

site: PROFILE = toy
site: $(INSTALLED)
	$(BIN)/python docs/build_site.py --profile $(PROFILE)$(if $(ARGS), $(ARGS))

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
