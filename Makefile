# Everything a newcomer or the build machine runs. Needs Python 3.11 or newer and make, nothing else.

PYTHON ?= python3
RUN_VENV := .venv/run
DEV_VENV := .venv/dev
RUN := $(RUN_VENV)/bin/python
DEV := $(DEV_VENV)/bin/python
# The CPU build: newer versions from PyPI bring several gigabytes of CUDA libraries that nothing here uses.
TORCH ?= torch==2.13.0

.PHONY: coverage demo docs man test test-webgpu test-newest test-triton test-vapoursynth test-fast lint check nightly train-edge plan clean

demo: $(RUN_VENV)/.installed  ## Deblur a real clip with the packaged plan; prints the measured gain.
	$(RUN) benchmarks/demo.py

# A worker per core, each with one thread; a file's tests stay together, and share what they build.
PYTEST := OMP_NUM_THREADS=1 $(DEV) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(DEV_VENV)/.installed  ## Run every test.
	$(PYTEST)

test-fast: $(DEV_VENV)/.installed  ## Run the tests that take less than ten seconds each.
	$(PYTEST) -m "not slow"

MEASURED := runtime/video/*,bsst/plan/*,runtime/job.py,runtime/jobs/*
coverage: $(DEV_VENV)/.installed  ## Lines and branches of video, plan and job code that their tests run: ten minutes.
	OMP_NUM_THREADS=1 $(DEV) -m coverage run -m pytest -p no:xdist tests/runtime/video tests/bsst/plan tests/runtime/jobs \
		tests/runtime/test_job.py tests/runtime/test_job_failures.py tests/bsst/cli/test_run.py tests/bsst/cli/test_many.py \
		tests/bsst/cli/test_remote.py tests/bsst/cli/test_pipes.py
	$(DEV) -m coverage combine
	$(DEV) -m coverage report --include '$(MEASURED)'

lint: $(DEV_VENV)/.installed  ## Style and types.
	$(DEV) -m ruff check .
	$(DEV) -m ruff format --check .
	$(DEV) -m mypy

check: lint test  ## What the build machine runs.

# The newest Python that is tested, with the newest PyAV, which Python 3.11 does not get: a few minutes.
NEWEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python) $(shell command -v python3.13))
test-newest: .venv/newest/.installed  ## Video tests and those of bsst-run with the newest Python and PyAV.
	.venv/newest/bin/python -m pytest -p no:xdist -W default -m "not slow and not nightly" tests/runtime/video \
		tests/runtime/test_job_memory.py tests/bsst/test_start.py tests/bsst/cli/test_run.py tests/bsst/cli/test_many.py \
		tests/bsst/cli/test_pipes.py tests/bsst/cli/test_dry_run.py

.venv/newest/.installed: pyproject.toml
	$(NEWEST) -m venv .venv/newest
	.venv/newest/bin/python -m pip install --quiet --disable-pip-version-check -e . pytest pytest-timeout hypothesis scikit-image
	touch $@

docs: .venv/docs/.installed  ## Build the documentation into out/site; broken links and unknown names fail.
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build

man: .venv/docs/.installed  ## Write a manual page for each command into out/man.
	mkdir -p out/man
	.venv/docs/bin/python -c "import click_man.core as m, bsst; from bsst.cli.main import main; \
		m.write_man_pages('bsst', main, version=bsst.__version__, target_dir='out/man')"

.venv/docs/.installed: pyproject.toml
	$(PYTHON) -m venv .venv/docs
	.venv/docs/bin/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	touch $@

# The provider that is built into a package of its own, which shares a folder with the stock onnxruntime: hence a venv.
# SwiftShader, a Vulkan driver that computes on the CPU, is part of Debian's chromium.
export SWIFTSHADER ?= /usr/lib/chromium/vk_swiftshader_icd.json
test-webgpu: $(DEV_VENV)/.installed .venv/webgpu/.installed  ## A clip on ONNX Runtime's WebGPU, over SwiftShader: minutes.
	BSST_WEBGPU_PYTHON=$(CURDIR)/.venv/webgpu/bin/python $(DEV) -m pytest -p no:xdist -m needs_webgpu

.venv/webgpu/.installed: pyproject.toml
	$(PYTHON) -m venv .venv/webgpu
	.venv/webgpu/bin/python -m pip install --quiet --disable-pip-version-check -e .
	.venv/webgpu/bin/python -m pip uninstall --quiet --yes onnxruntime
	.venv/webgpu/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps onnxruntime-webgpu
	touch $@

# nvidia-pytriton holds a server, and wants an older NumPy: hence a venv, 0.3 GB.
test-triton: $(DEV_VENV)/.installed .venv/triton/.installed  ## The model of export-triton on a live Triton server.
	BSST_TRITON_PYTHON=$(CURDIR)/.venv/triton/bin/python $(DEV) -m pytest -p no:xdist -m needs_triton

.venv/triton/.installed: pyproject.toml
	$(PYTHON) -m venv .venv/triton
	.venv/triton/bin/python -m pip install --quiet --disable-pip-version-check "nvidia-pytriton==0.7.0"
	touch $@

# VapourSynth wants Python 3.12 or newer.
VAPOURSYNTH ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python) $(shell command -v python3.12) $(NEWEST))
test-vapoursynth: .venv/vapoursynth/.installed  ## The VapourSynth filter through vspipe.
	.venv/vapoursynth/bin/python -m pytest -p no:xdist -W default tests/bsst/test_vapoursynth.py

.venv/vapoursynth/.installed: pyproject.toml
	$(VAPOURSYNTH) -m venv .venv/vapoursynth
	.venv/vapoursynth/bin/python -m pip install --quiet --disable-pip-version-check -e ".[vapoursynth]" pytest pytest-timeout hypothesis
	touch $@

nightly: $(DEV_VENV)/.installed test-webgpu test-triton  ## Build every stage for every GPU generation with TensorRT-RTX: an hour or more; resumes.
	$(DEV) benchmarks/build_plans.py
	$(DEV) benchmarks/build_plans.py --tile 768x1280 --precision fp16 --sm 89
	$(DEV) benchmarks/build_plans.py --config release
	$(DEV) benchmarks/build_plans.py --config release --frames 48 --precision fp16 --sm 89
	$(DEV) benchmarks/build_plans.py --table
	$(DEV) benchmarks/cpu_clip.py --config edge --plan runtime/data/edge.plan --threads 1 --check
	$(DEV) benchmarks/edge_cost.py --check
	$(DEV) benchmarks/harm.py
	$(DEV) -m pytest -m nightly

# Tiles for the demo clip, for squares and for 1280x720 up, over one set of weights and the same areas of flow.
PLAN_SIZES := --tile 256x256 --tile 192x320 --tile 384x448 --flow-size 256x256 --window-overlap 2
plan: $(DEV_VENV)/.installed  ## Rebuild the packaged plan from the packaged weights.
	$(DEV_VENV)/bin/bsst-export $(PLAN_SIZES) -o runtime/data/edge.plan

# Needs Debian's ffmpeg, a GPU with PyTorch and OpenCV, and about 6 GB in DATA; every step keeps what exists.
DATA ?= out/training/data
RUN_DIR ?= out/training/run
MINUTES ?= 9.3
train-edge: $(DEV_VENV)/.installed  ## Train the edge network again; see training/README.md.
	$(DEV) -m bsst.training.sources --data $(DATA)
	$(DEV) -m bsst.training.real --data $(DATA) interpolate
	$(DEV) -m bsst.training.cache --data $(DATA) --split validation --count 6
	$(DEV) -m bsst.training.cache --data $(DATA) --split held --count 40
	$(DEV) -m bsst.training.datapack --data $(DATA) --out $(DATA)/pack
	$(DEV) -m bsst.training.train --data $(DATA)/pack --out $(RUN_DIR) --minutes $(MINUTES)
	$(DEV) -m bsst.training.pack --run $(RUN_DIR)
	$(DEV) benchmarks/edge_quality.py --data $(DATA)

clean:
	rm -rf .venv out build *.egg-info

$(RUN_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(RUN_VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(DEV_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DEV_VENV)
	$(DEV) -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(DEV) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@
