# make demo, make test, make check, make docs: each sets everything up by itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DONE   := $(VENV)/.installed
NNUNET := .venv-nnunet

.PHONY: demo test test-slow test-training check format docs clean nnunet-env

demo: $(DONE)
	$(BIN)/boltzmed demo --output demo_output

test: $(DONE)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(DONE)
	$(BIN)/python -m pytest -m slow

# Of the slow ones: two processes train as one, and a training that is killed ends as if it had not been.
test-training: $(DONE)
	$(BIN)/python -m pytest -m slow tests/test_bundles.py

check: $(DONE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DONE)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages and the API reference, into site/; open site/index.html.
docs: $(DONE)
	$(BIN)/python docs/build_site.py

# torch first, by exact version: asked for by another package it may come as a build several gigabytes larger.
$(DONE): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "boltzmed needs Python 3.11 to 3.13, found %d.%d; run make with PYTHON=/path/to/python" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test,dev,docs]"
	@touch $(DONE)

# nnU-Net to compare with (docs/nnunet.md), apart: it wants an older timm. Beside a CPU build of torch, the registry's
# torchvision does not import (boltzmed/compat.py says why); the same stand-in, for every command of this environment.
nnunet-env: $(NNUNET)/.installed

$(NNUNET)/.installed: benchmarks/nnunet/constraints.txt
	$(PYTHON) -m venv $(NNUNET)
	$(NNUNET)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< torch
	$(NNUNET)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< torchvision nnunetv2
	$(NNUNET)/bin/python -c 'import torchvision' 2>/dev/null || echo 'import sys, types; sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")' \
		> "$$($(NNUNET)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision_beside_cpu_torch.pth"
	$(NNUNET)/bin/python -c 'import torchvision'
	@touch $@

clean:
	rm -rf $(VENV) $(NNUNET) build dist *.egg-info demo_output site
