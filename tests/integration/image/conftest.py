"""The image, built for these tests, and a place to run it in: a user without a name, folders that are mounted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.image.container import Container
from tests.integration.image.storage import IMAGE, Storage, missing_programs

USER = "12345:0"
# An audit hook of every Python in the container notes whom it tries to reach.
AUDIT = """
import os, sys

def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        with open(os.environ["AUDIT"], "a") as stream:
            stream.write(f"{event} {arguments[1:]}\\n")

sys.addaudithook(note)
"""


def reason_to_skip() -> str | None:
    """Why no image can be built here, or None."""
    if os.environ.get("VIZSAGE_IMAGE") != "1":
        return "builds an image of several GB: run make test-image"
    if os.geteuid() != 0:
        return "an image for tests needs root: debootstrap and mounts do"
    if missing := missing_programs():
        return f"an image for tests needs {', '.join(missing)}: as root on Debian, make test-image installs them"
    return None


@pytest.fixture(scope="session")
def storage() -> Iterator[Storage]:
    """The store that holds the image. VIZSAGE_IMAGE_STORAGE=FOLDER keeps it, and takes the image that is there."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    kept = os.environ.get("VIZSAGE_IMAGE_STORAGE")
    storage = Storage(Path(kept or tempfile.mkdtemp(prefix="image-")))
    try:
        if not storage.has(IMAGE):
            storage.make_base()
            storage.build()
        yield storage
    finally:
        storage.remove(keep_images=bool(kept))


@pytest.fixture(scope="session")
def image(storage: Storage) -> Container:
    """The image's file system and configuration, to be run as its own user."""
    return Container(storage.mount(IMAGE), storage.inspect(IMAGE))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders home, data and outputs that group 0 may write to, and audit."""
    place = tmp_path_factory.mktemp("place")
    for name in ("home", "data", "outputs", "audit"):
        (place / name).mkdir()
        (place / name).chmod(0o775)
    (place / "audit" / "sitecustomize.py").write_text(AUDIT)
    return place


@pytest.fixture(scope="module")
def container(image: Container, place: Path) -> Container:
    """As an arbitrary user without network; only /tmp, the one home and the outputs can be written to."""
    mounts = {
        "/home/vizsage": (place / "home", "rw"),
        "/workspace/data": (place / "data", "ro"),
        "/workspace/outputs": (place / "outputs", "rw"),
        "/mnt": (place / "audit", "ro"),
    }
    environment = {"PYTHONPATH": "/mnt", "AUDIT": "/workspace/outputs/connections", "OMP_NUM_THREADS": "2"}
    return replace(image, user=USER, mounts=mounts, environment=environment, network=False)
