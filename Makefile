# Two commands from nothing: `make demo` runs the main job, `make test` passes the tests.
# Both make their own environment in .venv and need no GPU and no network but for packages.

PYTHON ?= python3
VENV ?= .venv
# The build of torch that export and tests run with: the pin keeps every install alike. Where an
# index offers a CPU-only build of it, name that one here (for example TORCH=torch==2.13.0+cpu).
TORCH ?= torch==2.13.0
# It pins a torch that is older than the one that export needs, so it comes without what it asks for.
LEROBOT ?= lerobot==0.4.4
BIN := $(VENV)/bin
SAMPLES := zoo/mmedge_zoo/samples

PIP := --quiet --disable-pip-version-check

# Benchmarks and tests may import ONNX Runtime before mmedge, which turns its telemetry off.
export ORT_DISABLE_TELEMETRY ?= 1

# Tests compile the same sources in several folders: with ccache once. To it, g++ and c++ are two
# compilers, and pip calls the one, CMake by itself the other.
ifneq ($(shell command -v ccache),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
export CCACHE_DIR ?= $(CURDIR)/build/ccache
export CCACHE_NOHASHDIR ?= 1
export CXX
endif

# What the native library is made of: a change of it installs the package anew.
NATIVE := $(shell find cpp_ext -type f)

.PHONY: conformance demo docs fuzz promise ray ros2 ros2-bench test test-long triton soak lint format bench wheels clean

demo: $(VENV)/.demo
	mkdir -p demo
	$(BIN)/mmedge env
	$(BIN)/mmedge export zoo:vqa-attention --output demo/vqa.mmedge --overwrite
	$(BIN)/mmedge inspect demo/vqa.mmedge
	$(BIN)/mmedge verify demo/vqa.mmedge
	$(BIN)/mmedge run demo/vqa.mmedge --input image=$(SAMPLES)/vqa/00.png --input text="what color is the shape?"
	$(BIN)/mmedge run demo/vqa.mmedge --input image=$(SAMPLES)/vqa/00.png --input audio=$(SAMPLES)/vqa/00.wav
	$(BIN)/mmedge bench demo/vqa.mmedge --output demo/report.json
	$(BIN)/mmedge export zoo:label-translate --output demo/label.mmedge --overwrite
	$(BIN)/mmedge run demo/label.mmedge --input image=$(SAMPLES)/label-translate/01.png --input language="<zh>"
	$(BIN)/mmedge export zoo:draw --output demo/draw.mmedge --overwrite
	$(BIN)/mmedge run demo/draw.mmedge --input text="a big teal triangle at the left" --output demo/draw.safetensors

# Tests run in WORKERS processes of one thread each: more than two cores, since many tests wait for
# processes and clocks. Those that hold a time against a limit follow alone. NATIVE_BUILDS=always compiles native code under sanitizers, for a GPU and its emulation;
# by default only where it differs from main. FURTHER= (nothing) runs more networks
# of kinds that other tests show, as .ci/run does. PYTEST takes further options. pytest ends
# with 5 where these leave no test.
WORKERS ?= 3
NATIVE_BUILDS ?= changed
FURTHER ?= and not further_class
PYTEST ?=
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not serial $(FURTHER)" --numprocesses $(WORKERS) --dist worksteal --native-builds $(NATIVE_BUILDS) $(PYTEST)
	$(BIN)/pytest -m serial $(PYTEST) || [ $$? -eq 5 ]

# Everything, with 2,000 random examples where `make test` has 100.
test-long: promise
	$(MAKE) test NATIVE_BUILDS=always FURTHER= PYTEST="--hypothesis-profile=long --timeout=0 $(PYTEST)"

# The cases that every runtime is held to: what is committed is what is made, and Python passes it.
conformance: $(VENV)/.test
	$(BIN)/python conformance/make.py --check
	$(BIN)/python conformance/run_python.py

# Bundles served by a real Triton server, in an environment of its own: the wheel that holds the server
# wants NumPy 1.
triton: $(VENV)-triton/.ready
	OMP_NUM_THREADS=1 $(VENV)-triton/bin/pytest -c integrations/triton/pyproject.toml integrations/triton/tests $(PYTEST)

# The ROS 2 node with real ROS, in an environment of its own: what its wheels put into Python's start
# would reach every other program. It is made with the network and used without: Fast DDS binds every
# address. PYTEST takes further options.
OFFLINE := unshare --map-root-user --net
ros2: $(VENV)-ros2/.ready build/ros2/robot.mmedge
	OMP_NUM_THREADS=1 $(OFFLINE) $(VENV)-ros2/bin/python -m pytest -c integrations/ros2/pyproject.toml integrations/ros2/tests $(PYTEST)

# Ten minutes of a robot over DDS, each sample accounted for, and what the node costs.
ros2-bench: $(VENV)-ros2/.ready build/ros2/robot.mmedge
	OMP_NUM_THREADS=1 $(OFFLINE) $(VENV)-ros2/bin/python integrations/ros2/tests/robot_run.py --output benchmarks/results/ros2.json

# Recordings on a real Ray, in an environment of its own: what it brings is large, and of no use to
# other tests. PYTEST takes further options.
ray: $(VENV)-ray/.ready
	OMP_NUM_THREADS=1 $(VENV)-ray/bin/pytest -c integrations/ray/pyproject.toml integrations/ray/tests $(PYTEST)

# The documentation as a site, in build/docs: from the tree alone, without the network. A warning is an
# error, and everything is read anew: what a build before warned of would go unseen.
docs: $(VENV)/.test
	$(BIN)/sphinx-build -E -b html -W --keep-going -q docs build/docs

# A stream in real time; every sample must be accounted for.
SECONDS ?= 60
soak: $(VENV)/.demo
	mkdir -p demo
	$(BIN)/python benchmarks/soak.py --seconds $(SECONDS) --output demo/soak.json

# Random networks and files: each must be refused with a reason, or be right over its whole domain.
# Counts, refusals by reason and faults go to promise.*.json.
EXAMPLES ?= 2000
promise: $(VENV)/.test
	OMP_NUM_THREADS=1 MMEDGE_EXAMPLES=$(EXAMPLES) MMEDGE_PROMISE=promise $(BIN)/pytest tests/promise --timeout=0 --numprocesses $(WORKERS)

# Every parser of what others wrote, on so many changed inputs each: Python's, whose faults go to
# fuzz-faults/, and libmmedge's.
RUNS ?= 100000
fuzz: $(VENV)/.test
	$(BIN)/python tests/fuzz/run.py --runs $(RUNS)
	$(BIN)/python tests/fuzz/native.py --runs $(RUNS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/plans.py
	$(BIN)/python benchmarks/streaming.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/dispatch.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python docs/generate.py

# What a release uploads, into dist: mmedge for x86-64 and aarch64 (cross-compiled by
# g++-aarch64-linux-gnu), mmedge-zoo, mmedge-ray, mmedge-ros and mmedge-triton.
wheels: $(VENV)/.test
	$(BIN)/python cpp_ext/wheels.py --output dist

clean:
	rm -rf $(VENV) $(VENV)-ray $(VENV)-ros2 $(VENV)-triton demo build dist

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP) "$(TORCH)"
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(BIN)/pip install $(PIP) "$(TORCH)" --editable ".[cpu,export]"
	touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(BIN)/pip install $(PIP) "$(TORCH)" --editable ".[cpu,dev,docs,export,rtx,train]"
	$(BIN)/pip install $(PIP) --no-deps "$(LEROBOT)"
	touch $@ $(VENV)/.demo

$(VENV)-triton/.ready: pyproject.toml integrations/triton/pyproject.toml $(NATIVE)
	$(PYTHON) -m venv $(VENV)-triton
	$(VENV)-triton/bin/pip install $(PIP) --config-settings=build-dir=build/triton \
		--editable ".[cpu,sign,text]" "numpy<2" "nvidia-pytriton==0.7.0" "onnx>=1.19" pytest pytest-timeout
	$(VENV)-triton/bin/pip install $(PIP) --editable integrations/triton
	touch $@

$(VENV)-ros2/.ready: pyproject.toml integrations/ros2/pyproject.toml integrations/ros2/requirements.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)-ros2
	$(VENV)-ros2/bin/pip install $(PIP) --config-settings=build-dir=build/ros2-native \
		--editable ".[cpu,ros,sign,text]" --requirement integrations/ros2/requirements.txt pytest pytest-timeout
	$(VENV)-ros2/bin/pip install $(PIP) --no-deps --editable integrations/ros2
	touch $@

build/ros2/robot.mmedge: integrations/ros2/tests/make_bundle.py | $(VENV)/.test
	mkdir -p build/ros2
	rm -rf $@
	$(BIN)/python integrations/ros2/tests/make_bundle.py $@

# Without the native library: nothing here needs its kernels.
$(VENV)-ray/.ready: pyproject.toml integrations/ray/pyproject.toml
	$(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/pip install $(PIP) --config-settings=wheel.cmake=false \
		--editable ".[cpu,mcap]" --editable "integrations/ray[test]"
	touch $@
