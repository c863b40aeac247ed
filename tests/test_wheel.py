"""The wheel alone, installed in a separate environment and used from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SETTINGS = {"model_name": "vizsage-tiny", "base_path": "data", "dataset": "Demo", "output_dir": "outputs/run"}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def run(*command: str | Path, cwd: Path) -> str:
    """What the command prints. The repository is on no path, and its folder is not the current one."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows: a build leaves files behind, and takes up those of an earlier one."""
    source = tmp_path_factory.mktemp("source")
    parts = ["vizsage", "jobs", "config", "k8s", "pyproject.toml", "README.md", "LICENSE"]
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *parts, cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():  # not one that is deleted and not yet committed
            shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    run(*PIP, "wheel", *offline, "--wheel-dir", source / "dist", source, cwd=source)
    (built,) = (source / "dist").glob("vizsage-*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the installed commands; their environment borrows the dependencies of this one."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    run(*PIP, "--python", place / "bin/python", "install", "--no-deps", "--no-index", "--quiet", wheel, cwd=place)
    (site,) = place.glob("lib/python*/site-packages")
    # The editable installation there is not followed: files that end in .pth count in an environment's own folder.
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))
    return place / "bin"


@pytest.fixture
def folder(programs: Path, tmp_path: Path) -> Path:
    """Empty but for settings."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    found = run(programs / "python", "-c", "import jobs, vizsage; print(jobs.__file__, vizsage.__file__)", cwd=tmp_path)
    assert str(ROOT) not in found
    return tmp_path


def test_the_library_and_its_data_are_in_the_wheel(programs: Path, folder: Path) -> None:
    assert run(programs / "vizsage", "--help", cwd=folder).startswith("usage: vizsage ")
    run(programs / "vizsage", "demo", "data", cwd=folder)
    assert run(programs / "vizsage", "check", "run.yaml", "--fast", cwd=folder)  # reads the tiny model of the package


@pytest.mark.parametrize("command", ["vizsage-jobs", "python -m jobs"])
def test_a_profile_of_the_package_sends_a_job(programs: Path, folder: Path, command: str) -> None:
    program, *options = command.split()
    submit = [programs / program, *options, "submit", "slurm", "train", "run.yaml", "--profile", "bare", "--dry-run"]
    script = run(*submit, cwd=folder)
    assert "#SBATCH --account=my-project\n" in script
    assert f"run_dir={folder}/outputs/run\n" in script
    own = folder / "config/clusters/bare.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("account: of-this-folder\n")
    assert "#SBATCH --account=of-this-folder\n" in run(*submit, cwd=folder)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl builds the overlays")
def test_an_overlay_of_the_package_sends_a_job(programs: Path, folder: Path) -> None:
    submit = [programs / "vizsage-jobs", "submit", "kubernetes", "train", "run.yaml", "--dry-run"]
    documents = list(yaml.safe_load_all(run(*submit, "--overlay", "jobset", cwd=folder)))
    assert "JobSet" in {document["kind"] for document in documents}
    own = folder / "k8s/overlays/jobset/kustomization.yaml"
    own.parent.mkdir(parents=True)
    shutil.copytree(ROOT / "k8s/base", folder / "k8s/base")
    own.write_text("resources: [../../base]\n")
    documents = list(yaml.safe_load_all(run(*submit, "--overlay", "jobset", cwd=folder)))
    assert {document["kind"] for document in documents} == {"ConfigMap", "Job"}


def test_every_module_manifest_and_profile_is_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = set(run("git", "ls-files", "vizsage/*.py", "jobs/*.py", cwd=ROOT).split())
    assert {name for name in modules if (ROOT / name).exists()} - inside == set()
    for package, source in (
        ("jobs/schedulers/slurm/clusters", "config/clusters"),
        ("jobs/schedulers/kubernetes/k8s", "k8s"),
    ):
        tracked = run("git", "ls-files", f"{source}/*.yaml", cwd=ROOT).split()
        wanted = {name.replace(source, package, 1) for name in tracked if name.count("/") > 1}
        assert len(wanted) > 3
        assert wanted - inside == set()
