# Everything a user or a developer types. `make help` explains the targets; each line of it is the comment behind `##`.
PYTHON ?= python3
CONFIG ?= config/example_config.yaml
DEMO   ?= config/demo_config.yaml
# More for the command: make train CONFIG=my.yaml ARGS="lr=1e-4 epochs=2"
ARGS   ?=
# Test processes; each uses one thread, so that two cores are enough.
JOBS   ?= 2

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
NEWEST := .venv-newest
OLDEST := .venv-oldest
# The tests that depend on releases of torch, transformers, trl, peft, datasets and others, and take minutes only.
LIBRARIES := tests/models/shared_image $(addprefix tests/models/,loading/test_hf.py test_generation.py adapters) tests/demo/test_tiny.py \
	$(addprefix tests/data/test_,collate.py encoding.py images.py prompts.py sources_columnar.py) tests/test_config.py \
	$(addprefix tests/training/test_,train.py checkpoints.py four_bits.py) tests/evaluation/test_evaluate.py tests/tracking
CODE  := vizsage jobs tests tools benchmarks docs

.DEFAULT_GOAL := help
.PHONY: help install demo test test-newest test-oldest test-slurm test-k8s test-docs test-report lint format train eval submit-local submit-slurm submit-k8s check
.PHONY: docs docs-links schema settings-table metrics-table commands-table models-table benchmark benchmark-train benchmark-aqua benchmark-report figures training-figures
.PHONY: benchmark-eval answering-figures aqua-figures screenshot lock image sbom test-image clean uninstall audit wheel version
.PHONY: release-notes

help: ## this list
	@echo "make TARGET [CONFIG=config/example_config.yaml] [ARGS=\"key=value ...\"]"
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS='	' read -r target text; do \
		printf '  %-15s %s\n' "$$target" "$$text"; done

install: $(STAMP) ## make .venv with the exact versions of requirements.lock (about 6 GB); every other target does this first

# The stamp is written last, so that an interrupted installation is continued.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "make: $(PYTHON) is missing or older than Python 3.10; name another one: make install PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV): about 6 GB, a few minutes."
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -r requirements.lock
	PYTHONWARNINGS=ignore $(BIN)/pip install --disable-pip-version-check --quiet --no-deps --editable .
	@touch $@

demo: $(STAMP) ## draw a data set, evaluate the tiny model, fine-tune it, evaluate it again: a few minutes on two cores
	$(BIN)/vizsage demo data
	$(BIN)/vizsage eval $(DEMO) --base
	$(BIN)/vizsage train $(DEMO)
	$(BIN)/vizsage eval $(DEMO)
	$(BIN)/vizsage eval $(DEMO) --base --blind
	$(BIN)/vizsage eval $(DEMO) --blind
	@$(BIN)/python -m tools.before_after $(DEMO)

train: $(STAMP) ## fine-tune as CONFIG says; the same command continues an interrupted run
	$(BIN)/vizsage train $(CONFIG) $(ARGS)

eval: $(STAMP) ## evaluate the adapter of CONFIG on its test split (ARGS="--base": the base model)
	$(BIN)/vizsage eval $(CONFIG) $(ARGS)

submit-local: $(STAMP) ## run CONFIG on this machine without a terminal, after the jobs that wait (ARGS="--then-eval lr=1e-4")
	@$(BIN)/python -m jobs submit local train $(CONFIG) $(ARGS)

submit-slurm: $(STAMP) ## send a run of CONFIG to a SLURM cluster (PROFILE=my_cluster, ARGS="--then-eval --nodes 2 lr=1e-4")
	@$(BIN)/python -m jobs submit slurm train $(CONFIG) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

submit-k8s: $(STAMP) ## send a run of CONFIG to a Kubernetes cluster (OVERLAY=multi-node, ARGS="--then-eval --nodes 2 lr=1e-4")
	@$(BIN)/python -m jobs submit kubernetes train $(CONFIG) $(if $(OVERLAY),--overlay $(OVERLAY)) $(ARGS)

check: $(STAMP) ## find what would stop a run of CONFIG later: settings, records, images, disk
	$(BIN)/vizsage check $(CONFIG) $(ARGS)

test: $(STAMP) ## run the tests (ARGS="-m 'not slow'": the quick ones)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

# The versions that `pip install .` chooses from the ranges in pyproject.toml; both environments are updated each time.
test-newest: ## run the tests that touch other libraries with their newest releases (in .venv-newest, made for it)
	@test -x $(NEWEST)/bin/pip || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install --disable-pip-version-check --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -q -n $(JOBS) --dist worksteal -m 'not slow' $(LIBRARIES) $(ARGS)

# --no-config: tool.uv in pyproject.toml has the versions for `make lock`.
test-oldest: $(STAMP) ## the same with the oldest releases that pyproject.toml allows (in .venv-oldest)
	@test -x $(OLDEST)/bin/python || $(BIN)/uv venv --quiet --python $(PYTHON) $(OLDEST)
	$(BIN)/uv pip install --quiet --no-config --python $(OLDEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -n $(JOBS) --dist worksteal -m 'not slow' $(LIBRARIES) $(ARGS)

# One process: the tests share one cluster, and its jobs the cores. -rs lists what was skipped, and why.
test-slurm: $(STAMP) ## run the tests on a real SLURM, started for them on this host (as root; gets SLURM with apt-get)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		! { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge; fi
	VIZSAGE_SLURM=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs tests/integration/slurm $(ARGS)

test-k8s: $(STAMP) ## run the pods of the Kubernetes manifests as processes on this host (gets bubblewrap and tini with apt-get)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		! { command -v bwrap && command -v tini; } >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq bubblewrap tini; fi
	VIZSAGE_KUBERNETES=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs tests/integration/kubernetes $(ARGS)

# One process: it measures nothing, but a page's training takes both cores.
test-docs: $(STAMP) ## run the commands of the tutorials in docs/tutorials, and compare what they print
	VIZSAGE_DOCS=1 $(BIN)/python -m pytest -q -rs tests/docs/test_tutorials.py $(ARGS)

test-report: $(STAMP) ## open report.html in Chromium: filters, keyboard, phones, paper (as root on Debian; gets Chromium itself)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		! { command -v chromium && command -v chromedriver; } >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver; fi
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs tests/evaluation/report/test_report_browser.py $(ARGS)

# As variables, so that a blank in a value does not split it; only BUILD_ARGS may have several words.
image: export TARGET := $(TARGET)
image: export IMAGE := $(IMAGE)
image: export PIP_CONFIG := $(PIP_CONFIG)
image: ## build the container image (TARGET=unsloth, IMAGE=name:tag, PIP_CONFIG=pip.conf, BUILD_ARGS="--build-arg ...")
	@sh docker/build.sh $(BUILD_ARGS)

# The lock has one version of each package, for the image's platform.
SBOM ?= dist/sbom.json
sbom: $(STAMP) ## write dist/sbom.json: the Python packages of the image, as CycloneDX (TARGET=unsloth)
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --short-PURLs --output-reproducible \
		-o $(SBOM) requirements-$(if $(filter unsloth,$(TARGET)),unsloth,image).lock

audit: $(STAMP) ## look up known vulnerabilities of the locked packages, and check their licences (needs network)
	@$(BIN)/python -m tools.audit

# What a release consists of, besides the image: see docs/contributing/release.md.
WHEELS ?= dist
wheel: $(STAMP) ## build the wheel into dist/, without network
	@rm -rf build vizsage.egg-info $(WHEELS)/vizsage-*.whl
	@PYTHONWARNINGS=ignore $(BIN)/pip wheel --disable-pip-version-check --quiet --no-deps --no-index --no-build-isolation --wheel-dir $(WHEELS) .
	@rm -rf build vizsage.egg-info
	@ls $(WHEELS)/vizsage-*.whl

version: $(STAMP) ## write the version of pyproject.toml wherever it is repeated (VERSION=0.3.0: that one, there too)
	@$(BIN)/python -m tools.version $(VERSION)

release-notes: $(STAMP) ## print the newest version's part of CHANGELOG.md (TAG=v0.3.0: only if that is its tag)
	@$(BIN)/python -m tools.release_notes $(TAG)

# One process: the containers use all cores. The first test waits minutes for the image.
test-image: $(STAMP) ## build the image and run the demo in it, without an engine (as root on Debian; gets buildah itself)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		! { command -v buildah && command -v debootstrap; } >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq buildah debootstrap; fi
	VIZSAGE_IMAGE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --timeout 3600 tests/integration/image $(ARGS)

lint: $(STAMP) ## ruff (rules and format) and mypy
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format: $(STAMP) ## put the code into ruff's format and sort its imports
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

schema: $(STAMP) ## write config/schema.json, a JSON Schema of the settings for editors
	$(BIN)/vizsage config --schema > config/schema.json

settings-table: $(STAMP) ## rewrite the table of settings in docs/reference/settings.md from vizsage/config/settings.py
	$(BIN)/python -m tools.settings_table docs/reference/settings.md

commands-table: $(STAMP) ## rewrite the commands and options in docs/reference/commands.md from the parsers
	$(BIN)/python -m tools.commands_table docs/reference/commands.md

models-table: $(STAMP) ## rewrite the table of models in docs/reference/models.md from vizsage/models/families
	$(BIN)/python -m tools.models_table docs/reference/models.md

metrics-table: $(STAMP) ## rewrite the table of metrics in docs/reference/metrics.md from vizsage/scoring/registry.py
	$(BIN)/python -m tools.metrics_table docs/reference/metrics.md

# -n: every name in a docstring is known. -E: all pages again, because what is generated from code has no file to compare.
SPHINX = $(BIN)/python -m sphinx -q -E -W --keep-going -n -d build/doctrees docs
docs: $(STAMP) ## build the documentation in build/docs, with warnings as errors and without network
	@$(SPHINX) build/docs
	@echo "build/docs/index.html"

docs-links: $(STAMP) ## the same, and visit every external link (needs network)
	@$(SPHINX) -b linkcheck build/docs-links

benchmark: $(STAMP) ## measure start-up, reading, streaming and decoding; the figures of docs/benchmarks.md
	$(BIN)/python -m benchmarks.data_speed $(ARGS)

benchmark-train: $(STAMP) ## measure training beside unsloth and TRL, small (ARGS="--size real --family mllama": on a GPU)
	$(BIN)/python -m benchmarks.train_throughput $(ARGS)

benchmark-eval: $(STAMP) ## measure answering beside the usual loop and padded batches, small (ARGS="--size real": on a GPU)
	$(BIN)/python -m benchmarks.eval_throughput $(ARGS)

benchmark-aqua: $(STAMP) ## count which answers of AQUA can be guessed without an image (ARGS="data/AQUA --table data/SemArt")
	$(BIN)/python -m benchmarks.aqua_baselines --json benchmarks/results/aqua.json $(ARGS)

figures: $(STAMP) ## measure, and rewrite the figures in docs/benchmarks.md and the comparison in docs/how-to (needs the results of `make demo`)
	$(BIN)/python -m benchmarks.data_speed --json outputs/benchmark.json
	$(BIN)/python -m tools.figures docs/benchmarks.md
	$(BIN)/python -m tools.compare_example docs/how-to/compare-runs.md

training-figures: $(STAMP) ## rewrite the tables of training speed and the figure of README.md from benchmarks/results
	$(BIN)/python -m tools.training_figures docs/benchmarks.md
	$(BIN)/python -m tools.speed_figure docs/speed.svg

answering-figures: $(STAMP) ## rewrite the tables of answering speed in docs/benchmarks.md from benchmarks/results/answering
	$(BIN)/python -m tools.answering_figures docs/benchmarks.md

aqua-figures: $(STAMP) ## rewrite the table about AQUA in docs/explanation/scores.md from benchmarks/results/aqua.json
	$(BIN)/python -m tools.aqua_figures docs/explanation/scores.md

benchmark-report: $(STAMP) ## measure how fast report.html is made and opens in Chromium (ARGS="--samples 5000")
	$(BIN)/python -m benchmarks.report_speed $(ARGS)

screenshot: $(STAMP) ## draw docs/report.png, the image of a report in the documentation, from the results of `make demo` (needs Chromium)
	$(BIN)/python -m tools.report_screenshot outputs/demo

# First the versions that are compatible with unsloth; then the same versions for developers and, with hashes and for
# the Python and the platform of docker/Dockerfile, for the image without and with unsloth. Locked versions stay,
# because uv reads them from its output file.
COMPILE = $(BIN)/uv pip compile -q --no-annotate --custom-compile-command "make lock" \
	$(if $(filter all,$(UPGRADE)),--upgrade,$(addprefix --upgrade-package ,$(UPGRADE)))
UNIVERSAL := --universal --python-version 3.10
IN_IMAGE := --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --generate-hashes
lock: $(STAMP) ## update the locks: add new dependencies, keep versions (UPGRADE="peft trl" upgrades these; UPGRADE=all)
	awk -F== 'NR == FNR { developers[$$1] } NR == FNR || (/==/ && !($$1 in developers))' \
		requirements.lock requirements-unsloth.lock | sed 's/ \\$$//' > $(VENV)/with-unsloth.txt
	$(COMPILE) $(UNIVERSAL) --extra dev --extra unsloth -o $(VENV)/with-unsloth.txt pyproject.toml
	$(COMPILE) $(UNIVERSAL) --extra dev -c $(VENV)/with-unsloth.txt -o requirements.lock pyproject.toml
	$(COMPILE) $(IN_IMAGE) -c $(VENV)/with-unsloth.txt -o requirements-image.lock pyproject.toml
	$(COMPILE) $(IN_IMAGE) --extra unsloth -c $(VENV)/with-unsloth.txt -o requirements-unsloth.lock pyproject.toml

# What users made, or share with other programs, is theirs to remove.
uninstall: clean ## make clean, and list what else VizSage has left on this machine: data, runs, lists, models
	@echo "Removed the environments and caches in this folder. What is left, to remove by hand if it is not needed:"
	@for place in data outputs wandb "$${XDG_STATE_HOME:-$$HOME/.local/state}/vizsage" \
		"$${HF_HOME:-$${XDG_CACHE_HOME:-$$HOME/.cache}/huggingface}" "$${TORCHINDUCTOR_CACHE_DIR:-/tmp/torchinductor_$$(id -un)}" \
		"$${TRITON_CACHE_DIR:-$$HOME/.triton}"; do \
		if [ -e "$$place" ]; then du -sh "$$place" 2>/dev/null || echo "?	$$place"; fi; done
	@echo "The Hugging Face cache and the compilers' caches are shared with other programs. In ~/.bashrc or ~/.zshrc, the"
	@echo "line with 'vizsage completion'; ~/.config/fish/completions/vizsage.fish. Images: docker image rm vizsage:$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"

clean: ## remove the environments, caches and build products; data and outputs stay
	rm -rf $(VENV) $(NEWEST) $(OLDEST) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist vizsage.egg-info
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
