# Two commands for a newcomer: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
EPOCHS ?= 30
PROCESSES ?= 2
PACKAGES ?= schnetpack torchmdnet mace nequip symmetrix
BIN := .venv/bin
# Small molecules are bound by calls, not by arithmetic: a second thread only waits, and on a busy machine for long.
export OMP_NUM_THREADS ?= 1

.PHONY: release setup demo test slow skipped scatter engines pages sets lint types check bench bench-setup gpu gpu-wheels clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/mlpot train train/demo.yaml training.epochs=$(EPOCHS) --overwrite
	$(BIN)/mlpot evaluate runs/demo/model.safetensors data/ethanol.h5 --output runs/demo/evaluation
	$(BIN)/mlpot md md/ethanol.yaml
	$(BIN)/mlpot report runs/demo
	$(BIN)/mlpot report runs/demo/md
	@echo
	@echo "model     runs/demo/model.safetensors"
	@echo "metrics   runs/demo/metrics.json  runs/demo/evaluation/evaluation.json  runs/demo/md/md.json"
	@echo "pages     runs/demo/report.html  runs/demo/md/report.html"
	@echo "pictures  runs/demo/learning_curve.png  runs/demo/parity.png  runs/demo/md/md.png"

test: setup
	$(BIN)/python tests/compile_kernels.py
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup

slow: setup
	$(BIN)/python -m pytest -m slow

# What `make test` skips where it lacks something, with what it needs; here a test that still skips is a failure.
skipped: scatter engines pages sets

scatter: .venv-scatter/installed
	MLPOT_SKIPS_FAIL=1 .venv-scatter/bin/python -m pytest tests/kernels/test_reductions.py

.venv-scatter/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-scatter
	.venv-scatter/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]" setuptools wheel
	.venv-scatter/bin/python -m pip install --quiet --no-build-isolation --constraint constraints.txt torch-scatter
	touch $@

engines: .venv-engines/installed
	MLPOT_SKIPS_FAIL=1 .venv-engines/bin/python -m pytest tests/engines/test_other_engines.py tests/engines/test_other_engines_go_wrong.py tests/engines/test_watched.py

.venv-engines/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-engines
	.venv-engines/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,ipi,openmm,torchsim]"
	touch $@

pages: setup  # needs Chromium
	MLPOT_SKIPS_FAIL=1 $(BIN)/python -m pytest tests/html/test_report.py -k browser

sets: setup  # needs the public sets beside the checkout, see data/README.md
	MLPOT_SKIPS_FAIL=1 $(BIN)/python -m pytest tests/data/test_data_doctor.py tests/data/test_convert.py -k public

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: setup
	$(BIN)/mypy

check: lint types test

# Builds dist/ if version = changelog = tag, after all checks.
release: setup
	.ci/release

# Speed beside other packages, each in an environment of its own; BENCH takes sections and options of bench/run.py.
bench: bench-setup
	$(BIN)/python bench/run.py $(BENCH) --packages $(PACKAGES)

bench-setup: setup $(PACKAGES:%=.venv-bench/%/installed)

# A package that does not install is reported by bench/run.py with the reason in its log.
.venv-bench/%/installed: bench/%.txt
	$(PYTHON) -m venv .venv-bench/$*
	-.venv-bench/$*/bin/python -m pip install -r $< > .venv-bench/$*/install.log 2>&1 && \
	if [ -f bench/$*-alone.txt ]; then \
		.venv-bench/$*/bin/python -m pip install --no-deps -r bench/$*-alone.txt >> .venv-bench/$*/install.log 2>&1; \
	fi && touch $@

# On a machine with a CUDA device, without a network: GPU tests and a bench of at most eight minutes, see .ci/gpu.
gpu:
	.ci/gpu $(GPU)

# Here, with a network: what that machine lacks, as wheels of at most 60 MB that travel with the checkout.
gpu-wheels: setup
	.ci/gpu-wheels

clean:
	rm -rf .venv .venv-bench .venv-scatter .venv-engines .gpu wheels runs
