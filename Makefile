# Needs python3 >= 3.11 and make. Everything else goes into .venv, once, and again when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
SCRATCH := .scratch
RUN := $(VENV)/bin/

CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ckptstore needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
NO_VENV = python3 can't make virtual environments: on Debian and Ubuntu, apt install python3-venv

.DEFAULT_GOAL := help
.PHONY: help demo test test-files test-folders full rllib trainers lint clients-smoke compat torture fuzz bench bench-smoke clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

DEMO := $(if $(wildcard $(READY)),$(VENV),$(SCRATCH)/demo)
demo: $(DEMO)/.ready  ## a tour in about a minute: a Ray checkpoint without Ray, a killed trainer, an S3 server
	@$(DEMO)/bin/python examples/demo.py

test: lint  ## what every change must pass, two parts at a time
	@$(MAKE) --no-print-directory --output-sync=target -j2 test-files test-folders rllib

test-files test-folders: $(READY)
	$(RUN)pytest -q -p no:cacheprovider -m "not slow" $(if $(filter %files,$@),tests/*.py,tests/*/)

RAY := $(SCRATCH)/ray
WITH_TORCH := tests/restore tests/codec/test_torch.py tests/export/test_torchscript.py tests/rllib_formats/test_scan_content.py \
  tests/test_asked.py tests/test_checkpointer.py tests/test_loading.py tests/test_readme.py tests/test_torch_objects.py
rllib:  ## the part of the tests that needs Ray, with a Ray that it downloads; passed over where that fails
	@mkdir -p $(SCRATCH)
	@if $(MAKE) --no-print-directory $(RAY)/.ready >$(SCRATCH)/ray.log 2>&1; then \
	  $(RAY)/bin/python -m pytest -q -m "not slow" tests/integrations/rllib $(WITH_TORCH); \
	else \
	  echo "SKIPPED tests/integrations/rllib: Ray doesn't install here: $$(grep -m1 -i error $(SCRATCH)/ray.log || tail -1 $(SCRATCH)/ray.log)"; \
	fi

TRAINERS := $(SCRATCH)/trainers
trainers:  ## the part of the tests that needs Lightning, Stable-Baselines3, Hugging Face, Keras, ..., which it downloads
	@mkdir -p $(SCRATCH)
	@if $(MAKE) --no-print-directory $(TRAINERS)/.ready >$(SCRATCH)/trainers.log 2>&1; then \
	  $(TRAINERS)/bin/python -m pytest -q -rs tests/integrations/trainers; \
	else \
	  echo "SKIPPED tests/integrations/trainers: they don't install here: $$(grep -m1 -i error $(SCRATCH)/trainers.log || tail -1 $(SCRATCH)/trainers.log)"; \
	fi

full: lint  ## the same with the long matrices
	$(RUN)pytest -q
	@$(MAKE) --no-print-directory rllib

lint: $(READY)  ## style and types
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

clients-smoke: $(READY)  ## the oldest S3 client that is promised to work, which it downloads; passed over where that fails
	$(RUN)python -m tests.compat.clients --quick

OLDER_RAYS := 2.10.0 2.40.0
WITH_TENSORFLOW := $(SCRATCH)/tensorflow/bin/python -m pytest -q -rs -m "not slow" tests/integrations/rllib
compat: $(READY) $(SCRATCH)/ray/.ready $(SCRATCH)/torch/.ready $(SCRATCH)/tensorflow/.ready $(OLDER_RAYS:%=$(SCRATCH)/ray-%/.ready)  ## other Pythons, numpys, clients of S3 and GCS, and RLlibs, which it downloads
	$(RUN)python -m tests.codec.other_pythons
	$(RUN)python -m tests.compat.clients
	CKPTSTORE_RAY_PYTHON=$(SCRATCH)/ray/bin/python CKPTSTORE_OLDER_RAYS="$(OLDER_RAYS:%=$(CURDIR)/$(SCRATCH)/ray-%/bin/python)" $(RUN)pytest -q -rs tests/codec/test_other_pythons.py tests/migrations/test_other_pythons.py tests/compat
	$(RAY)/bin/python -m pytest -q -rs tests/integrations/rllib
	for keras in 0 1; do TF_USE_LEGACY_KERAS=$$keras $(WITH_TENSORFLOW)/test_tensorflow.py || exit 1; done
	for kind in tf2 tf; do TF_USE_LEGACY_KERAS=1 CKPTSTORE_RLLIB_FRAMEWORK=$$kind $(WITH_TENSORFLOW)/test_saving_page.py || exit 1; done
	$(SCRATCH)/torch/bin/python -m pytest -q -rs tests/export
	@$(MAKE) --no-print-directory trainers

torture: $(READY)  ## crashes, power cuts, races, bad days and random operations, for most of an hour
	-@$(MAKE) --no-print-directory $(SCRATCH)/chaos/.ready
	$(RUN)python -m tests.torture

FUZZ := pickle layout torch scan msgpack manifest parts refs
SECONDS_EACH ?= 450
fuzz: $(SCRATCH)/fuzz/.ready  ## coverage-guided fuzzing of every decoder for an hour, on one core
	failed=; for target in $(FUZZ); do \
	  $(SCRATCH)/fuzz/bin/python -m tests.fuzz.run $$target --seconds $(SECONDS_EACH) >$(SCRATCH)/fuzz/$$target.log 2>&1 \
	    || { tail -40 $(SCRATCH)/fuzz/$$target.log; failed="$$failed $$target"; }; \
	  echo "$$target: $$(grep -ao 'executed_units: .*' $(SCRATCH)/fuzz/$$target.log) $$(grep -ao 'cov: .* corp: [0-9]*' $(SCRATCH)/fuzz/$$target.log | tail -1)"; \
	done; test -z "$$failed" || { echo "found something in:$$failed"; exit 1; }

bench: $(SCRATCH)/bench/.ready  ## figures of this machine, beside torch, safetensors, Orbax, boto3, ..., which it downloads
	$(SCRATCH)/bench/bin/python -m benchmarks.local
	$(SCRATCH)/bench/bin/python -m benchmarks.growth
	$(SCRATCH)/bench/bin/python -m benchmarks.buckets
	$(SCRATCH)/bench/bin/python -m benchmarks.buckets --server sink --only save,load
	$(SCRATCH)/bench/bin/python -m benchmarks.growth --server seaweedfs
	$(SCRATCH)/bench/bin/python -m benchmarks.gcs
	$(SCRATCH)/bench/bin/python -m benchmarks.decode
	$(SCRATCH)/bench/bin/python -m benchmarks.bulk

bench-smoke: $(READY)  ## the same, small and without the others: does it still run?
	$(RUN)python -m benchmarks.local --smoke
	$(RUN)python -m benchmarks.growth --smoke
	$(RUN)python -m benchmarks.growth --smoke --server sink --only mib
	$(RUN)python -m benchmarks.buckets --smoke
	$(RUN)python -m benchmarks.buckets --smoke --server sink --only save,load
	$(RUN)python -m benchmarks.gcs --smoke
	$(RUN)python -m benchmarks.decode --smoke

clean:  ## remove what the targets above made
	rm -rf $(VENV) $(SCRATCH) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

$(SCRATCH)/ray/.ready: pyproject.toml
	$(PYTHON) -m venv $(SCRATCH)/ray
	$(SCRATCH)/ray/bin/python -m pip install --quiet "ray[rllib]==2.60.0" "torch==2.13.0"
	$(SCRATCH)/ray/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# What the tour needs, and no more; where all of it is there, that is taken.
$(SCRATCH)/demo/.ready: pyproject.toml
	@$(CHECK_PYTHON)
	@echo "Setting up $(SCRATCH)/demo for the tour (once, half a minute):"
	@mkdir -p $(SCRATCH)
	@$(PYTHON) -m venv --clear $(SCRATCH)/demo || { echo "$(NO_VENV)"; exit 1; }
	@$(SCRATCH)/demo/bin/python -m pip install --disable-pip-version-check --no-compile --editable '.[demo]' \
	  | sed -un 's/^Collecting \([^ ;(<>=!~[]*\).*/  \1/p; s/^Installing collected.*/  installing/p'
	@$(SCRATCH)/demo/bin/python -c 'import ckptstore, s3fs, click'
	@$(SCRATCH)/demo/bin/python -m pip uninstall --quiet --yes pip setuptools  # 27 MB for nothing
	@touch $@

# Ray's policies of TensorFlow need Keras 2.
$(SCRATCH)/tensorflow/.ready: pyproject.toml
	$(PYTHON) -m venv $(SCRATCH)/tensorflow
	$(SCRATCH)/tensorflow/bin/python -m pip install --quiet "ray[rllib]==2.60.0" "torch==2.13.0" "tensorflow==2.21.0" "tf_keras==2.21.0" msgpack_numpy
	$(SCRATCH)/tensorflow/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# The frameworks of docs/trainers, in the releases that its table names.
$(TRAINERS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(TRAINERS)
	$(TRAINERS)/bin/python -m pip install --quiet "torch==2.13.0" "lightning==2.6.6" "stable-baselines3==2.9.2" \
	  "transformers==5.24.0" "accelerate==1.15.0" "gymnasium==1.4.0" "pettingzoo==1.27.0" "torchrl==0.14.1" \
	  "tianshou==2.0.1" "skrl==2.1.1" "keras==3.15.1" "jax[cpu]==0.10.2" "optax==0.2.8" "orbax-checkpoint==0.12.8"
	$(TRAINERS)/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# Torch without Ray.
$(SCRATCH)/torch/.ready: pyproject.toml
	$(PYTHON) -m venv $(SCRATCH)/torch
	$(SCRATCH)/torch/bin/python -m pip install --quiet "torch==2.13.0" --editable '.[dev]'
	@touch $@

# Ray 2.10 needs a Python below 3.12, numpy 1 and what setuptools had up to 80.
$(SCRATCH)/ray-%/.ready:
	$(PYTHON) -m venv $(SCRATCH)/ray-$*
	$(SCRATCH)/ray-$*/bin/python -m pip install --quiet "ray[rllib]==$*" "torch==2.13.0" "numpy==1.26.4" "pyarrow<18" "setuptools<81"
	@touch $@

$(SCRATCH)/chaos/.ready:
	$(PYTHON) -m venv $(SCRATCH)/chaos
	$(SCRATCH)/chaos/bin/python -m pip install --quiet ckpt-chaos
	@touch $@

$(SCRATCH)/fuzz/.ready:
	$(PYTHON) -m venv $(SCRATCH)/fuzz
	$(SCRATCH)/fuzz/bin/python -m pip install --quiet atheris pytest --editable .
	@touch $@

$(SCRATCH)/bench/.ready: pyproject.toml
	$(PYTHON) -m venv $(SCRATCH)/bench
	$(SCRATCH)/bench/bin/python -m pip install --quiet "torch>=2.4" safetensors orbax-checkpoint torchrl pyarrow \
	  matplotlib "ray[train]==2.60.0" lightning-fabric --editable '.[dev]'
	@touch $@

# Quiet unless it fails.
$(READY): pyproject.toml
	@$(CHECK_PYTHON)
	@echo "Setting up $(VENV) (once, a minute or two)..."
	@test -x $(RUN)python || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "$(NO_VENV)"; exit 1; }
	@{ $(RUN)python -m pip install --upgrade pip && $(RUN)python -m pip install --editable '.[dev]'; } \
	  >$(VENV)/setup.log 2>&1 || { cat $(VENV)/setup.log; exit 1; }
	@touch $@
