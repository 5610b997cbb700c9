# `make demo` and `make test` are all the set-up there is: a machine needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench clean lock

demo: .venv/installed
	$(BIN)/crossfade demo

test: .venv/installed
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/installed
	$(BIN)/python -m benchmarks

# The pins, without any index address and without torchaudio, whose last release breaks transformers beside current torch.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Crossfade needs Python 3.11 or newer; set PYTHON=python3.x"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-header --no-annotate --upgrade pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis demo dist
