"""A separate image store for the tests, a base for the image in it, and the image, built as `make image` does it.

No engine and no registry: buildah in chroot isolation, which works where crun and runc are refused, and a Debian made
by debootstrap instead of python:slim. What this host needs to reach its package sources (apt's sources, certificates,
pip's index) goes into that base and into the build secret, never into the product.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
BASE = "localhost/debian-python"
IMAGE = "localhost/vizsage-test"
# Where the base keeps the host's certificates: not where the package ca-certificates writes its own.
CERTIFICATES = "/etc/host-certificates.pem"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# pip's settings that mean the same inside; folders of wheels do not.
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")


def missing_programs() -> list[str]:
    """Programs without which no image can be built here."""
    return [name for name in ("buildah", "debootstrap", "unshare", "setpriv") if not shutil.which(name)]


class Storage:
    """A folder with images, removed with all that is in it at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        configuration = folder / "storage.conf"
        driver = "overlay" if _overlay_works(folder) else "vfs"
        configuration.write_text(
            f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
        )
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("STORAGE_", "BUILDAH_"))},
            "CONTAINERS_STORAGE_CONF": str(configuration),
            "BUILDAH_ISOLATION": "chroot",
            "ENGINE": "buildah",
            "TMPDIR": str(folder / "tmp"),  # buildah's cache mounts
        }

    def buildah(self, *arguments: str) -> str:
        """Run buildah on this store; returns what it prints."""
        command = ["buildah", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def make_base(self) -> None:
        """Debian of this host's release with Python, and with this host's way to package sources."""
        container = self.buildah("from", "scratch")
        root = Path(self.buildah("mount", container))
        release, mirror = _release(), _mirror()
        packages = "python3,python3-venv,libpython3-dev,ca-certificates"
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", release, str(root), mirror]
        with (self.folder / "debootstrap.log").open("wb") as log:
            if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
                raise RuntimeError(f"debootstrap: {(self.folder / 'debootstrap.log').read_text()[-2000:]}")
        shutil.rmtree(root / "etc/apt/sources.list.d")
        for name in ("sources.list", "sources.list.d", "auth.conf.d", "keyrings", "trusted.gpg.d"):
            source = Path("/etc/apt", name)
            if source.is_dir():
                shutil.copytree(source, root / "etc/apt" / name, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, root / "etc/apt" / name)
            else:
                (root / "etc/apt" / name).unlink(missing_ok=True)
        shutil.copy(_certificates(), root / CERTIFICATES[1:])
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / folder)
        self.buildah("config", "--env", f"PATH={PATH}", container)
        self.buildah("commit", "--quiet", "--rm", container, BASE)

    def build(self) -> None:
        """`make image` with buildah and the replacement of the base."""
        configuration = self.folder / "pip.conf"
        configuration.write_text(_pip_configuration())
        arguments = [f"IMAGE={IMAGE}", f"PIP_CONFIG={configuration}", f"BUILD_ARGS=--build-arg BASE_IMAGE={BASE}"]
        log = self.folder / "build.log"
        with log.open("wb") as stream:
            done = subprocess.run(
                ["make", "image", *arguments], cwd=ROOT, env=self.environment, stdout=stream, stderr=stream, check=False
            )
        if done.returncode:
            raise RuntimeError(f"make image: {log.read_text(errors='replace')[-4000:]}")

    def has(self, image: str) -> bool:
        """Whether an image is here."""
        return image in self.buildah("images", "--format", "{{.Name}}").splitlines()

    def context(self, folder: Path) -> set[str]:
        """The files of a folder that reach a build there, as its .dockerignore decides."""
        dockerfile = self.folder / "context.Dockerfile"
        dockerfile.write_text("FROM scratch\nCOPY . /\n")
        self.buildah("build", "--quiet", "--tag", "localhost/context", "--file", str(dockerfile), str(folder))
        root = self.mount("localhost/context")
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def inspect(self, image: str) -> dict[str, Any]:
        """The OCI configuration of an image: Entrypoint, Cmd, Env, User, WorkingDir, Labels."""
        configuration: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", image))["OCIv1"]["config"]
        return configuration

    def mount(self, image: str) -> Path:
        """The root file system of a new container of an image."""
        return Path(self.buildah("mount", self.buildah("from", "--pull-never", image)))

    def remove(self, keep_images: bool = False) -> None:
        """Containers and their mounts, and, unless they are to be kept, the images and the folder."""
        self.buildah("rm", "--all")
        if not keep_images:
            shutil.rmtree(self.folder)


def _overlay_works(folder: Path) -> bool:
    """Whether the kernel mounts overlays on this file system; copies of all layers (vfs) are the slow way out."""
    names = [folder / "tmp" / name for name in ("lower", "upper", "work", "merged")]
    for name in names:
        name.mkdir(exist_ok=True)
    options = "lowerdir={},upperdir={},workdir={}".format(*names)
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(names[-1])]
    works = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if works:
        subprocess.run(["umount", str(names[-1])], check=True)
    return works


def _release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    found = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    return found.get("VERSION_CODENAME", "stable")


def _mirror() -> str:
    """Where this host's apt gets the release from."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(SITE) $(REPO_URI)"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for line in lines:
        codename, component, _, uri = line.split()
        if codename == _release() and component == "main":
            return uri
    raise RuntimeError("apt-get indextargets: names no mirror of this release")


def _certificates() -> str:
    named = [os.environ.get(name, "") for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")]
    return next(path for path in [*named, "/etc/ssl/certs/ca-certificates.crt"] if path and Path(path).is_file())


def _pip_configuration() -> str:
    """pip's settings of this host, from its files and its environment, as far as they mean something inside."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    settings = {}
    for line in lines:  # files first, then the environment: the later line counts
        key, _, value = line.partition("=")
        words = [word for word in value.strip("'\"").replace("\\n", " ").split() if not word.startswith("file:")]
        name = key.rpartition(".")[2].removeprefix("default-")
        if name in PIP_SETTINGS and words:
            settings[name] = "\n    ".join(words)
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in {**settings, "cert": CERTIFICATES}.items())
