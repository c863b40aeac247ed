"""What is in the image, and what is not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.image.container import Container, variables
from tests.integration.image.storage import ROOT, Storage


def site_packages(image: Container) -> Path:
    (found,) = image.root.glob("opt/vizsage/lib/python3*/site-packages")
    return found


def test_configuration_of_the_image(image: Container) -> None:
    found = image.image
    assert found["Entrypoint"] == ["/usr/bin/tini", "--", "python", "-m", "jobs.run"]
    assert (found["Cmd"], found["User"], found["WorkingDir"]) == (["--help"], "10001:0", "/workspace")
    set_here = variables(found)
    home = set_here["HOME"]
    caches = {name for name, value in set_here.items() if value.startswith(f"{home}/")}
    assert {"HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"} <= caches
    assert not [name for name in set_here if re.search("TOKEN|KEY|PASSWORD|SECRET|INDEX|PROXY|NVIDIA_VISIBLE", name)]


def test_labels_tell_version_and_revision(image: Container) -> None:
    labels = image.image["Labels"]
    project = dict(re.findall(r'^(version|license) = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    prefix = "org.opencontainers.image."
    assert labels[prefix + "version"] == project["version"]
    assert labels[prefix + "licenses"] == project["license"]
    revision = labels[prefix + "revision"].removesuffix("-dirty")  # a commit in the meantime moves HEAD
    assert len(revision) == 40
    subprocess.run(["git", "merge-base", "--is-ancestor", revision, "HEAD"], cwd=ROOT, check=True)


def test_nothing_of_the_build_is_left(image: Container) -> None:
    found = [name for name in ("gcc", "cc", "clang", "c++", "ld", "make") if shutil.which(name, path=bin_path(image))]
    assert found == []
    leftovers = "src image tmp/pip root/.cache home/vizsage/.cache etc/pip.conf run/secrets/pip-config".split()
    assert [name for name in leftovers if (image.root / name).exists()] == []
    for emptied in ("var/lib/apt/lists", "var/cache/pip", "home/vizsage", "workspace/data", "workspace/outputs", "tmp"):
        folder = image.root / emptied
        assert not folder.exists() or not list(folder.rglob("*")), emptied


def bin_path(image: Container) -> str:
    return ":".join(str(image.root / part[1:]) for part in variables(image.image)["PATH"].split(":"))


def test_no_tests_and_no_developers_tools(image: Container) -> None:
    for name in ("tests", "pytest", "_pytest", "hypothesis", "mypy", "pip", "tools", "benchmarks"):
        assert not (site_packages(image) / name).exists(), name
    assert not shutil.which("ruff", path=bin_path(image))
    assert sorted(path.name for path in (image.root / "workspace/config").iterdir()) == [
        "debug_config.yaml",
        "demo_config.yaml",
        "example_config.yaml",
    ]


def test_versions_are_those_of_the_lock(image: Container) -> None:
    text = (ROOT / "requirements-image.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))
    installed = {}
    for folder in site_packages(image).glob("*.dist-info"):
        name, _, number = folder.name.removesuffix(".dist-info").rpartition("-")
        installed[normal(name)] = number
    assert installed.pop("vizsage") == image.image["Labels"]["org.opencontainers.image.version"]
    assert "torch" in installed
    assert installed == {normal(name): number for name, number in locked.items()}


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", ["vizsage", "jobs", "torch/nn", "transformers/models/llava"])
def test_sources_are_compiled_for_good(image: Container, name: str) -> None:
    sources = list((site_packages(image) / name).rglob("*.py"))
    assert sources
    for source in sources:
        (compiled,) = (source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", f"{compiled}: is compared with its source at each start"


def test_the_module_that_triton_compiles_is_there(image: Container) -> None:
    driver = f"/{site_packages(image).relative_to(image.root)}/triton/backends/nvidia/driver.c"
    done = image.run(driver, "-O3", "-shared", "-o", "/tmp/made.so", entrypoint=[variables(image.image)["CC"]])
    assert (done.returncode, done.stderr) == (0, "")
    done = image.run("/etc/passwd", "-o", "/tmp/made.so", entrypoint=[variables(image.image)["CC"]])
    assert done.returncode == 1
    assert "has no C compiler" in done.stderr
    assert "/etc/passwd" in done.stderr


def test_only_what_is_listed_reaches_the_build(storage: Storage, tmp_path: Path) -> None:
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    wanted = {"pyproject.toml", "requirements-image.lock", "vizsage/cli.py", "vizsage/data/sample.py", "jobs/run.py"}
    wanted |= {"config/demo_config.yaml", "docker/prebuild.sh", "vizsage/demo/tiny/weights/model.safetensors"}
    unwanted = {".git/config", ".env", "data/train.json", "outputs/run/run.json", "tests/test_x.py", "token", "wandb/x"}
    unwanted |= {"vizsage/.env", "jobs/__pycache__/run.pyc", "config/mine.yaml", "config/clusters/mine.yaml"}
    for name in wanted | unwanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert storage.context(tmp_path) == wanted
