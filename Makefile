# Two commands: `make demo` and `make test`. Both make .venv first; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-cuda lint release clean

demo: $(VENV)/installed
	$(BIN)/pvd-demo

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What needs a GPU.
test-cuda: $(VENV)/installed-test
	$(BIN)/python -m pytest -m cuda

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Before a release: the wheel in an environment of its own, without the checkout.
release: $(VENV)/installed
	$(BIN)/python -m pip install --quiet build
	rm -rf build dist && $(BIN)/python -m build --wheel
	$(PYTHON) -m venv build/wheel && build/wheel/bin/python -m pip install --quiet dist/*.whl
	cd build && wheel/bin/pvd demo && wheel/bin/pvd convert pvd-demo/runs/nerfacto/* --to sparse --minutes 1 && \
	    wheel/bin/pvd export outputs/*/pvd-distill/* --mesh --safetensors --html

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) pvd-demo outputs
