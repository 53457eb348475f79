# `make` lists the targets. DEVICE=cpu|cuda overrides the detected device, PYTHON=... the interpreter of a new .venv.
VENV := .venv
BIN := $(VENV)/bin
CONTAINER := docker
V2 := VLLM_USE_V2_MODEL_RUNNER=1 TRITON_INTERPRET=1
FAULTS := $(addprefix tests/faults/,engine_ends.py poisoned_request.py vanishing_clients.py overload.py soak.py)

.DEFAULT_GOAL := help
.PHONY: help serve image test v2-test shapes-test deploy-test fault-test lint types bench gpu-report study clean runtime dev v2 node

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: MODEL=DIR  ARGS='--port 8080'  DEVICE=cpu|cuda  PYTHON=python3.12 (for a new $(VENV))  CONTAINER=podman"

serve: runtime ## serve MODEL over HTTP (default: the embedded demo model)
	@$(BIN)/llamagen serve $(MODEL) $(ARGS)

image: ## build the container image llamagen-serve:DEVICE (default: cpu) with docker, or CONTAINER=podman
	$(CONTAINER) build --target $(or $(DEVICE),cpu) -t llamagen-serve:$(or $(DEVICE),cpu) $(ARGS) .

# Tests that start vLLM run in two processes, which share an engine each. The others share the cores, with one thread in
# each process: OpenBLAS is ten times slower where several have a thread for each core.
test: dev ## run the tests (ARGS='-m "not engine"' leaves out those that start vLLM, ARGS='-m long' runs the long ones)
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not engine" -n logical --maxprocesses 8 --dist loadfile
	$(BIN)/python -m pytest -m "engine and not long" -n logical --maxprocesses 2 --dist loadfile
endif

v2-test: v2 ## run the tests of the model on vLLM's V2 model runner, with Triton's interpreter
	$(V2) $(BIN)/python -m pytest tests/vllm_llamagen tests/scripts -m engine $(ARGS)

shapes-test: dev ## convert and serve every official model with random weights (ARGS='--only c2i-B-256' for one)
	@$(BIN)/python -m scripts.official_shapes $(ARGS)

deploy-test: dev ## run the tests of deploy/: chart, alerts, proxy, Ray Serve (needs prometheus and haproxy)
	$(BIN)/python -m pytest deploy/tests $(ARGS)

fault-test: dev ## kill, stop and overload a server for an hour (ARGS=tests/faults/engine_ends.py for a part)
	$(BIN)/python -m pytest -o log_cli=true --log-cli-level=INFO $(or $(ARGS),$(FAULTS))

lint: dev node ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	node_modules/.bin/biome check --error-on-warnings

types: dev node ## check the types (Python and JavaScript)
	$(BIN)/mypy
	node_modules/.bin/tsc --project tsconfig.json

bench: runtime ## measure the engine's speed (ARGS='--size L --batch 1 8 32')
	@$(BIN)/llamagen bench engine $(ARGS)

gpu-report: dev ## measure the whole system on this machine's GPU, part by part, into docs/benchmarks-gpu.md
	@$(BIN)/python -m scripts.gpu_report $(ARGS)

study: dev ## train what docs/studies/codebook.jsonl lacks (180 small image tokenizers), and plot the codebook study
	@$(BIN)/python -m demo.studies.codebook $(ARGS)

clean: ## remove caches and build output (.venv and node_modules stay)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find server vllm_plugin tokenizer tests demo deploy examples scripts -name __pycache__ -type d -prune -exec rm -rf {} +

runtime:
	@scripts/install.sh $(VENV) "$(DEVICE)"

dev:
	@scripts/install.sh $(VENV) "$(DEVICE)" dev

v2: ## install what runs vLLM's V2 model runner on a CPU, for tests (700 MB)
	@scripts/install.sh $(VENV) "$(DEVICE)" v2

# The copy of package.json is the stamp: it is written when everything in it is installed.
node:
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 18 or newer with npm (apt install nodejs npm)" >&2; exit 1; }
	@cmp -s package.json node_modules/.installed.json || { \
	  npm install --no-package-lock --no-audit --no-fund --no-update-notifier --loglevel=error && \
	  cp package.json node_modules/.installed.json; }
