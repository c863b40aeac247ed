"""The walls of ARCHITECTURE.md, checked in the source: who may import whom, and what must not be anywhere."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from vizsage import contract

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vizsage"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Packages from top to bottom; a module imports from a package below its own, or from its own.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"parser"},
    {"api"},
    {"training", "evaluation"},
    {"check", "demo"},
    {"models"},
    {"distributed"},
    {"data"},
    {"completion"},
    {"scoring", "record", "interruption", "tracking", "lock"},
    {"config", "streams", "tables", "log_output"},
    {"errors", "hints"},
    {"contract"},
    {"json_lines"},
    {"files", "startup"},
]
FLOOR = {package: number for number, packages in enumerate(FLOORS) for package in packages}
FLOOR[""] = -1  # the package itself, which offers functions of the packages and imports them when they are used

# Importing one of these must not import torch; `data`'s processing, encoding and collation are the border.
TORCH_FREE = [
    name
    for name in MODULES
    if ".".join(name.split(".")[1:2])
    in "cli parser api config errors files json_lines hints contract check scoring".split()
    or (
        name.startswith("vizsage.data")
        and name not in ("vizsage.data.collate", "vizsage.data.encoding", "vizsage.data.processing")
    )
    or name.startswith(("vizsage.evaluation.report", "vizsage.evaluation.comparison", "vizsage.demo.drawn_data"))
    or name.removeprefix("vizsage.evaluation.") in ("results", "results_table", "predictions", "score")
]
SCHEDULERS = re.compile(r"slurm|sbatch|\bsrun\b|kube|\bk8s\b|\bpbs\b|\blsf\b|\bjobs\.", re.IGNORECASE)

# Beside the families: a model that the package brings along, and formats of data, one of which is called like a model.
OF_ARCHITECTURES = ("models/families/", "demo/tiny/", "data/field_names.py", "config/settings.py", "hints.py")


def loaded_by(*modules: str, heavy: tuple[str, ...]) -> list[str]:
    """Those of `heavy` that a process has loaded after importing `modules`, each with the module that did it."""
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found = [m for m in {heavy!r} if m in sys.modules]\n"
        "    if found:\n"
        "        sys.exit(f'{name} imports {found}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stderr.splitlines()


def package_of(module: str) -> str:
    """`data` for vizsage.data.sources."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, wherever in it, and whether at module level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
              for node in ast.walk(f)}  # fmt: skip
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which package they reach"
            # `from vizsage.data import sources` imports the module vizsage.data.sources
            names = [f"{node.module}.{alias.name}" for alias in node.names if f"{node.module}.{alias.name}" in MODULES]
            names = names or [str(node.module)]
        for name in names:
            yield name, id(node) not in inside


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward_only(module: str) -> None:
    own = package_of(module)
    for target, _ in imports(MODULES[module]):
        other = package_of(target)
        if not target.startswith("vizsage") or not other or other == own:
            continue
        assert other in FLOOR, f"{module} imports {target}, a package without a place in FLOOR"
        assert FLOOR[own] < FLOOR[other], f"{module} imports {target}, which is not below it"


def test_every_room_has_a_floor() -> None:
    assert {package_of(module) for module in MODULES} - {""} <= set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_only_the_unsloth_backend_imports_unsloth(module: str) -> None:
    if module != "vizsage.models.loading.unsloth":
        assert not [name for name, _ in imports(MODULES[module]) if name.split(".")[0].startswith("unsloth")]


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_prints(module: str) -> None:
    if module == "vizsage.cli":
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_the_library_knows_no_scheduler_and_no_launcher(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    found = SCHEDULERS.search(text)
    assert found is None, f"{module}: {found.group() if found else ''}"
    assert not [name for name, _ in imports(MODULES[module]) if name.split(".")[0] == "jobs"]


def test_architectures_are_known_to_their_families_only() -> None:
    """Adding one must need one folder only. The names to look for are those of the registry."""
    from vizsage.models.families.registry import FAMILIES

    names = {re.split(r"[\d_]", name)[0] for family in FAMILIES for name in family.names}
    assert {"mllama", "qwen", "gemma"} <= names
    architectures = re.compile("|".join(names), re.IGNORECASE)
    for path in PACKAGE.rglob("*"):
        name = path.relative_to(PACKAGE).as_posix()
        if path.suffix in (".py", ".md", ".yaml", ".html", ".js") and not name.startswith(OF_ARCHITECTURES):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                assert not architectures.search(line), f"{name}:{number}: {line.strip()}"


# Which modules may do what the rest must leave to them.
PROMPTS = {"vizsage.data.prompts"}
PATCHES = {
    "vizsage.models.adapters.frozen_vision",
    "vizsage.models.adapters.lora_linear",
    "vizsage.models.shared_image.compiled",
}


@pytest.mark.parametrize("module", MODULES)
def test_prompts_are_built_and_models_are_patched_in_marked_places_only(module: str) -> None:
    """A second place for prompts drifts apart from the first; a patch beside vizsage.models.patches has no order."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        name = getattr(node, "attr", "")
        assert name != "apply_chat_template" or module in PROMPTS, f"{module}:{node.lineno} builds a prompt"
        patches = isinstance(getattr(node, "ctx", None), ast.Store) if name == "forward" else "register_forward" in name
        allowed = module in PATCHES or module.startswith("vizsage.models.families.")
        assert not patches or allowed, f"{module}:{node.lineno} changes the code of a model"


EVALUATION = [name for name in MODULES if name.startswith("vizsage.evaluation")]


def evaluation_room(module: str) -> str:
    """`report` for vizsage.evaluation.report.page, `answering` for what is in no folder of vizsage.evaluation."""
    name = module.split(".")[2:3]
    return name[0] if name in (["report"], ["comparison"]) else "answering"


@pytest.mark.parametrize("module", EVALUATION)
def test_the_rooms_of_evaluation_import_each_other_one_way(module: str) -> None:
    """An evaluation writes a report, which shows comparisons, which read predictions as scoring does."""
    own = evaluation_room(module)
    reached = {evaluation_room(name) for name, _ in imports(MODULES[module]) if name in EVALUATION} - {own}
    writes_report = module == "vizsage.evaluation.evaluate"
    allowed = {
        "report": {"comparison"},
        "comparison": {"answering"},
        "answering": {"report"} if writes_report else set(),
    }
    assert reached <= allowed[own], f"{module} imports {sorted(reached)}"


JOBS = sorted((ROOT / "jobs").rglob("*.py"))

# Names of files that other programs look for. "config.yaml" is also the key of a ConfigMap.
CONTRACT = {name for name in vars(contract).values() if isinstance(name, str) and name.endswith((".json", ".jsonl"))}
CONTRACT |= {contract.EVALUATIONS, contract.REPORT, contract.LOSS_CURVES, contract.LOCK, contract.ADAPTER_WEIGHTS}


@pytest.mark.parametrize("path", [*MODULES.values(), *JOBS], ids=lambda path: path.stem)
def test_only_the_contract_spells_the_names_of_the_files_of_a_run(path: Path) -> None:
    """A name that two modules spell is two names as soon as one of them is changed."""
    if path == PACKAGE / "contract" / "__init__.py":
        return
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    texts = {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
    assert not {text for text in texts for name in CONTRACT if text == name or text.startswith(f"{name}/")}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_launchers_know_settings_errors_and_files_only(path: Path) -> None:
    reached = {package_of(name) for name, _ in imports(path) if name.split(".")[0] == "vizsage"}
    # Of scoring the table of runs needs the title of the metric that it shows.
    light = {
        "completion",
        "config",
        "contract",
        "errors",
        "files",
        "hints",
        "json_lines",
        "streams",
        "scoring",
        "tables",
    }
    assert reached <= light, path


def test_launchers_import_without_torch() -> None:
    """A login node has little memory, and `python -m jobs status` must answer at once."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in JOBS if path.stem != "__main__"]
    assert {"jobs.run", "jobs.runs_table"} <= set(modules)
    assert loaded_by(*modules, heavy=("torch", "transformers", "datasets", "wandb")) == []
    light = ("jobs.cli", "jobs.parser", "jobs.sending")
    assert loaded_by(*light, heavy=("pydantic", "yaml", "rich", "submitit", "detect_secrets", "argcomplete")) == []


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_only_the_command_line_of_launchers_prints(path: Path) -> None:
    prints = [
        n for n in ast.walk(ast.parse(path.read_text())) if getattr(getattr(n, "func", None), "id", "") == "print"
    ]
    assert path.stem == "terminal" or not prints


# A folder of schedulers/, and those that it may build on: kubectl, for example, for another kind of job.
BUILDS_ON: dict[str, set[str]] = {}
OF_A_SCHEDULER = re.compile(r"slurm|sbatch|squeue|sacct|\bsrun|kube|\bk8s\b|\bpods?\b", re.IGNORECASE)
SCHEDULER_FOLDERS = {path.parent for path in (ROOT / "jobs" / "schedulers").glob("*/__init__.py")}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_schedulers_are_known_by_the_registry_only(path: Path) -> None:
    """And none of them uses what belongs to another one."""
    if path.parent in SCHEDULER_FOLDERS:
        allowed = {path.parent.name, *BUILDS_ON.get(path.parent.name, ())}
        others = {f"jobs.schedulers.{folder.name}" for folder in SCHEDULER_FOLDERS if folder.name not in allowed}
        assert not [name for name, _ in imports(path) if ".".join(name.split(".")[:3]) in others]
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.stem == "registry":  # one line each
        lines = [line for line in lines if not re.fullmatch(r' +"\w+": "jobs\.schedulers\.[\w.]+:\w+",', line)]
    assert not [line for line in lines if OF_A_SCHEDULER.search(line)]


def loaded_modules(path: Path, known: Collection[str]) -> set[str]:
    """Those of `known` that a file imports when it runs, wherever in it: all but what type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    unread = {id(inside) for test in tests for inside in ast.walk(test)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in unread:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in unread:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inside & set(known)) or {str(node.module)}
    return names & set(known)


def test_no_imports_form_a_circle() -> None:
    """Not inside of functions either: such a circle shows that two modules are one, or that a third one is missing."""
    modules = dict(MODULES)
    for path in JOBS:
        modules[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    graph = {name: loaded_modules(path, modules) - {name} for name, path in modules.items()}
    assert graph["vizsage.training.train"]
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", [*MODULES.values(), *JOBS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


OBJECTS = {"all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"}
OBJECTS |= {"send_object_list", "recv_object_list"}
# Steps from its worker processes, through a pipe that no other process can open.
UNPICKLES = {"vizsage/training/prefetch.py": {"HIGHEST_PROTOCOL", "loads", "dumps"}}


@pytest.mark.parametrize("path", [*MODULES.values(), *JOBS], ids=lambda path: path.stem)
def test_nothing_is_unpickled_that_another_process_has_sent(path: Path) -> None:
    """Neither here nor by collectives of torch and accelerate that take any object. Pickle's errors may be caught."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    used = {n.attr for n in nodes if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "pickle"}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "cloudpickle", "dill"):
            used |= {alias.name for alias in node.names}
    assert used <= {"PickleError", "UnpicklingError"} | UNPICKLES.get(str(path.relative_to(ROOT)), set())
    names = {getattr(node, "attr", getattr(node, "id", "")) for node in nodes}
    assert not names & OBJECTS


@pytest.mark.parametrize("folder", ["slurm", "k8s", "docker"])
def test_folders_of_templates_hold_no_python(folder: str) -> None:
    assert not list((ROOT / folder).rglob("*.py"))


def test_torch_free_rooms_import_without_torch() -> None:
    """One process imports them all; its output names the first one that imports torch."""
    assert loaded_by(*TORCH_FREE, heavy=("torch", "transformers", "datasets")) == []


def test_the_command_line_imports_nothing_but_the_standard_library_until_it_has_a_command() -> None:
    heavy = [
        n for n, at_top in imports(PACKAGE / "cli.py") if at_top and n.split(".")[0] not in sys.stdlib_module_names
    ]
    light = {"contract", "errors", "config", "parser", "interruption", "log_output", "startup", "streams"}
    assert set(heavy) <= {"vizsage", "__future__"} | {f"vizsage.{name}" for name in light}
    assert loaded_by("vizsage.cli", heavy=("pydantic", "yaml", "rich", "torch", "argcomplete")) == []


FOLDERS = ["vizsage", "jobs", "slurm", "k8s", "docker", "tools", "benchmarks", "config", "tests"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_path_of_one_machine_stands_in_the_tree(folder: str) -> None:
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in (".py", ".yaml", ".json", ".md", ".sbatch"):
            # The home in the image is everybody's.
            found = re.search(r"(?<![\w/.])/(work|root|home)/(?!vizsage\b)", path.read_text(encoding="utf-8"))
            assert found is None or path == Path(__file__), path


@pytest.mark.parametrize("module", MODULES)
def test_formats_are_known_by_their_registry_only(module: str) -> None:
    """Adding a format is one module and one line: nothing else may ask for a single one."""
    if not module.startswith("vizsage.data.formats"):
        known = ("vizsage.data.formats", "vizsage.data.formats.format")
        used = {name for name, _ in imports(MODULES[module]) if name.startswith("vizsage.data.formats")}
        assert used <= set(known), f"{module} imports {sorted(used - set(known))}"


TRACKER_NAMES = re.compile("|".join(contract.TRACKERS), re.IGNORECASE)
# The settings of a tracker, which the settings class, their hints and the list of those that change no weights name.
NAME_TRACKERS = {"vizsage.config.settings", "vizsage.config.field_types", "vizsage.hints", "vizsage.record"}
# The registry, and the key of an earlier version of run.json.
NAME_TRACKERS |= {"vizsage.contract", "vizsage.contract.run_files"}


@pytest.mark.parametrize("module", MODULES)
def test_trackers_are_known_by_their_registry_only(module: str) -> None:
    """Adding one is one module and one entry."""
    own = {tracker.partition(":")[0] for tracker in contract.TRACKERS.values()}
    assert not {name for name, _ in imports(MODULES[module])} & own
    if module not in own | NAME_TRACKERS:
        assert not TRACKER_NAMES.search(MODULES[module].read_text(encoding="utf-8"))
