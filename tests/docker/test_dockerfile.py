"""The content of docker/Dockerfile and .dockerignore, without building: `make test-image` builds."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
# Comments out, continued lines joined.
LINES = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
INSTRUCTIONS = [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in LINES if line.strip()]
LOCKS = ("requirements-image.lock", "requirements-unsloth.lock")


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """By name: the stage or image that it begins from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for word, rest in INSTRUCTIONS:
        if word == "FROM":
            base, name = rest.split(" AS ")
            found[name] = (base, [])
        elif found:
            found[list(found)[-1]][1].append((word, rest))
    return found


def lineage(name: str) -> list[str]:
    """The stages whose layers an image has, the base first."""
    base = stages()[name][0]
    return [*(lineage(base) if base in stages() else []), name]


def values(word: str, of: str) -> list[str]:
    """All arguments of an instruction in a stage and in those that it begins from."""
    return [rest for stage in lineage(of) for found, rest in stages()[stage][1] if found == word]


def test_stages() -> None:
    assert list(stages())[-1] == "vizsage"  # the default
    assert lineage("vizsage") == ["base", "dependencies", "vizsage"]
    assert lineage("unsloth") == ["base", "dependencies", "unsloth-dependencies", "unsloth"]
    assert [name for name, (base, _) in stages().items() if base not in stages()] == ["base"]
    assert stages()["base"][0] == "${BASE_IMAGE}"


def test_base_is_pinned() -> None:
    word, rest = INSTRUCTIONS[0]
    assert word == "ARG"
    assert re.fullmatch(r"BASE_IMAGE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", rest)
    assert "latest" not in " ".join(LINES)


@pytest.mark.parametrize("target", ["vizsage", "unsloth"])
def test_how_an_image_starts(target: str) -> None:
    assert json.loads(values("ENTRYPOINT", target)[-1]) == ["/usr/bin/tini", "--", "python", "-m", "jobs.run"]
    assert json.loads(values("CMD", target)[-1]) == ["--help"]
    assert values("USER", target)[-1] == "10001:0"
    assert values("WORKDIR", target)[-1] == "/workspace"
    labels = " ".join(values("LABEL", target))
    for name in ("title", "description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert "HEALTHCHECK" not in [word for word, _ in INSTRUCTIONS]


@pytest.mark.parametrize("target", ["vizsage", "unsloth"])
def test_no_compiler_gets_into_an_image(target: str) -> None:
    installed = " ".join(rest for rest in values("RUN", target) if "apt-get" in rest)
    assert "tini" in installed
    assert not re.search(r"gcc|g\+\+|build-essential|clang|python3-dev", installed)


def test_dependencies_come_before_the_sources() -> None:
    for target in ("dependencies", "unsloth-dependencies"):
        copied = " ".join(values("COPY", target)).split()
        assert {Path(word).suffix for word in copied if Path(word).suffix} == {".lock"}
        (installing,) = [rest for word, rest in stages()[target][1] if word == "RUN"]
        assert "type=bind" not in installing, "buildah's cache would not notice a changed file"
        assert "--mount=type=cache,target=/var/cache/pip" in installing
        assert re.search(
            r"--require-hashes --no-build-isolation .* -r \S+/requirements-(image|unsloth)\.lock ", installing
        )


def test_secrets_come_as_build_secrets_only() -> None:
    assert "--mount=type=secret,id=pip-config,target=/etc/pip.conf" in TEXT
    for word, rest in INSTRUCTIONS:
        assert word != "ADD", "COPY fetches nothing and unpacks nothing"
        if word in ("ARG", "ENV"):
            assert not re.search("TOKEN|PASSWORD|SECRET|API_KEY|INDEX_URL", rest, re.IGNORECASE)
    assert not re.search(r"NVIDIA_VISIBLE_DEVICES=", TEXT)


def excluded(path: str) -> bool:
    """Whether .dockerignore keeps a file out: the last pattern that fits it or a folder above it decides."""
    out = False
    above = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            names = [part.rpartition("/")[2] for part in above] if pattern.startswith("**/") else above
            depth = pattern.removeprefix("**/")
            if any(fnmatch.fnmatchcase(name, depth) and name.count("/") == depth.count("/") for name in names):
                out = not line.startswith("!")
    return out


@pytest.mark.parametrize(
    "path",
    """.git/config .env .netrc pip.conf token data/train.json outputs/run/config.yaml tests/test_cli.py wandb/run/x
    .venv/bin/python config/mine.yaml config/clusters/mine.yaml k8s/secret.yaml docker/pip.conf vizsage/.env
    jobs/__pycache__/run.cpython-311.pyc vizsage/data/.sample.py.tmp""".split(),
)
def test_stays_outside(path: str) -> None:
    assert excluded(path)


def test_all_that_is_copied_gets_in() -> None:
    copied = [
        word for word, rest in INSTRUCTIONS if word == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "vizsage", "jobs", "config", *LOCKS} <= set(copied)
    tracked = subprocess.run(["git", "ls-files", *copied], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in tracked.splitlines() if not name.startswith("config/")]
    assert len(names) > 50
    assert [name for name in names if excluded(name)] == []
    configs = [name for name in tracked.splitlines() if re.fullmatch(r"config/\w+\.yaml", name)]
    assert [name for name in configs if excluded(name)] == []


def pyproject_dependencies() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return text.partition("\ndependencies = [\n")[2].partition("\n]\n")[0] + "\n"


def pins(lock: str) -> set[str]:
    """The lines name==version of a lock, without markers and hashes."""
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    return {line.split(" ")[0] for line in lines if re.match(r"[a-z0-9]", line)}


def test_locks_agree() -> None:
    developers, image, unsloth = pins("requirements.lock"), *map(pins, LOCKS)
    first, second = ({pin.split("==")[0] for pin in found} for found in (image, unsloth))
    assert len(first) == len(image)  # one version of each: a list of what the image holds, too
    assert len(second) == len(unsloth)
    assert image <= developers
    assert image <= unsloth
    assert {"torch", "transformers", "triton"} <= first
    wanted = re.findall(r'^    "([A-Za-z0-9_-]+)[^"]*",', pyproject_dependencies(), re.MULTILINE)
    assert len(wanted) > 15
    assert set(wanted) <= first  # a new dependency is in it
    assert "unsloth" in second - first
    assert not second & {"pytest", "ruff", "mypy", "uv"}


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_of_the_image_has_hashes_and_no_place(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"://|file:|--(index|extra|find|trusted)| @ ", text)
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(lock))
    for block in blocks:
        assert re.fullmatch(r"[a-z0-9._-]+==[^ ]+( \\\n    --hash=sha256:[0-9a-f]{64})+\n", block), block


def test_sbom_lists_what_the_image_installs(tmp_path: Path) -> None:
    written = tmp_path / "made" / "sbom.json"
    command = ["make", "-s", "sbom", "STAMP=", f"BIN={Path(sys.executable).parent}", f"SBOM={written}"]
    subprocess.run(command, cwd=ROOT, check=True)
    found = json.loads(written.read_text(encoding="utf-8"))
    assert found["bomFormat"] == "CycloneDX"
    assert found["metadata"]["component"]["name"] == "vizsage"
    assert {component["purl"] for component in found["components"]} == {
        f"pkg:pypi/{pin.replace('==', '@')}" for pin in pins(LOCKS[0])
    }
    assert all(component["externalReferences"][0]["hashes"] for component in found["components"])
    recipe = subprocess.run([*command, "-n", "TARGET=unsloth"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert recipe.stdout.split()[-1] == LOCKS[1]


def build(path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("ENGINE", "IMAGE", "TARGET")}
    environment = {**inherited, **variables, "PATH": path}
    return subprocess.run(
        ["/bin/sh", "docker/build.sh", "--build-arg", "X=1"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with what build.sh needs and a docker client whose daemon does not answer."""
    for name in ("sed", "head", "git", "dirname"):
        (tmp_path / name).symlink_to(next(p for p in (f"/usr/bin/{name}", f"/bin/{name}") if Path(p).exists()))
    engine(tmp_path, "docker", "exit 1")
    return tmp_path


def engine(folder: Path, name: str, info: str) -> None:
    path = folder / name
    path.write_text(f'#!/bin/sh\nif [ "$1" = info ]; then {info}; fi\necho {name} "$@"\n')
    path.chmod(0o755)


def test_make_image_says_in_a_line_that_there_is_no_engine(programs: Path) -> None:
    done = build(str(programs))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "docker, podman or buildah" in done.stderr


def test_make_image_takes_the_first_engine_that_works(programs: Path, tmp_path: Path) -> None:
    engine(programs, "podman", "exit 0")
    engine(programs, "buildah", "exit 0")
    configuration = tmp_path / "pip.conf"
    configuration.touch()
    done = build(str(programs), TARGET="unsloth", PIP_CONFIG=str(configuration))
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1]
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert command.startswith("podman build --file docker/Dockerfile --target unsloth")
    assert f"--tag vizsage:{version[1]}-unsloth " in command
    assert f"--build-arg VERSION={version[1]} " in command
    assert re.search(r"--build-arg REVISION=[0-9a-f]{40}(-dirty)? ", command)
    assert f"--secret id=pip-config,src={configuration} --build-arg X=1 ." in command
    assert "--secret" not in build(str(programs)).stdout


def test_make_image_misses_a_pip_configuration(programs: Path) -> None:
    engine(programs, "podman", "exit 0")
    done = build(str(programs), PIP_CONFIG="/no/such/pip.conf")
    assert done.returncode == 1
    assert "/no/such/pip.conf: no such file" in done.stderr


def test_every_installation_checks_hashes_and_builds_with_what_is_locked() -> None:
    """A package without a wheel is built with the setuptools of the lock: pip would fetch one that no hash checks."""
    installs = [one for _, rest in INSTRUCTIONS for one in re.findall(r" install --no-compile .*?(?=&&)", rest)]
    assert len(installs) == 4
    for one in installs:
        assert "--require-hashes" in one or "--no-index" in one
        assert "--no-build-isolation" in one or "--only-binary :all:" in one
    for lock in LOCKS:
        assert re.search(r"^setuptools==", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)
