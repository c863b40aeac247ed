"""Files of a data set are regular ones inside their folder, at the moment they are opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vizsage.config import build_config
from vizsage.data import images
from vizsage.data.formats import parquet, saved_folder
from vizsage.data.images import FileImage, header_px, load_image
from vizsage.data.opening import open_file, open_inside
from vizsage.data.sources import open_split
from vizsage.errors import DataError

TABLE = pa.table({"image": ["a.png"], "question": ["q"], "answer": ["a"]})


@pytest.fixture(autouse=True)
def _empty_caches() -> None:
    for cached in (parquet.parquet_file, parquet.image_column, saved_folder.saved_table):
        cached.cache_clear()


def write_arrow(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, TABLE.schema) as out:
        out.write_table(TABLE)


def saved(tmp_path: Path, state: str = '{"_data_files": [{"filename": "data.arrow"}]}') -> Path:
    """A split as save_to_disk writes it, and another file outside of it."""
    folder = tmp_path / "AQUA" / "train"
    folder.mkdir(parents=True)
    write_arrow(folder / "data.arrow")
    write_arrow(tmp_path / "outside.arrow")
    (folder / "state.json").write_text(state)
    return folder


def problem(tmp_path: Path) -> str:
    with pytest.raises(DataError) as error:
        open_split(build_config({"base_path": str(tmp_path)}), "train").load()
    assert str(error.value).isprintable()
    return str(error.value)


# what is no file


def test_open_file_opens_regular_files_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    os.mkfifo(tmp_path / "pipe")
    with open_file(tmp_path / "a") as file:
        assert file.read() == b"bytes"
    before = list(Path("/proc/self/fd").iterdir())
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="it is not a regular file"):
            open_file(path)
    assert list(Path("/proc/self/fd").iterdir()) == before  # nothing stays open


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize(
    "name",
    [
        "train.json",
        "train.jsonl",
        "train.jsonl.gz",
        "train.parquet",
        "train-00000-of-00001.parquet",
        "train/state.json",
    ],
)
def test_something_else_that_has_the_name_of_a_split(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / "AQUA" / name
    path.parent.mkdir(parents=True)
    make(path)
    what = "a folder" if make is os.mkdir else "no regular file"
    assert problem(tmp_path) == f"{path}: is {what}; expected a file"


# state.json


@pytest.mark.parametrize(
    "state", ["null", "[]", "{", "7", "{}", '{"_data_files": null}', '{"_data_files": []}', '{"_data_files": ["a"]}',
              '{"_data_files": [{"filename": 3}]}', '{"_data_files": [{"name": "data.arrow"}]}', "[" * 100_000],
)  # fmt: skip
def test_a_state_that_names_no_files(tmp_path: Path, state: str) -> None:
    folder = saved(tmp_path, state)
    assert f"{folder}/state.json: names no data files; expected what Dataset.save_to_disk writes" in problem(tmp_path)


@pytest.mark.parametrize(
    "name", ["../../outside.arrow", "sub/../../../outside.arrow", "{}/outside.arrow", "link.arrow"]
)
def test_a_state_that_names_a_file_outside(tmp_path: Path, name: str) -> None:
    name = name.format(tmp_path)
    folder = saved(tmp_path, f'{{"_data_files": [{{"filename": "{name}"}}]}}')
    (folder / "link.arrow").symlink_to(tmp_path / "outside.arrow")
    found = problem(tmp_path)
    assert f"{folder}/state.json: the data file '{name}'" in found
    assert f"leaves {folder}" in found


@pytest.mark.parametrize("what", ["pipe", "folder", "nothing", "empty"])
def test_a_data_file_that_is_none(tmp_path: Path, what: str) -> None:
    path = saved(tmp_path) / "data.arrow"
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "empty":
        path.touch()
    expected = {"nothing": "No such file", "empty": "empty"}.get(what, "it is not a regular file")
    found = problem(tmp_path)
    assert "cannot be read as a data set on disk" in found
    assert expected in found


def test_a_saved_data_set_may_be_a_link_and_have_links_inside(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "data.arrow").rename(folder / "real.arrow")
    (folder / "data.arrow").symlink_to("real.arrow")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert len(open_split(build_config({"base_path": str(tmp_path)}), "train").load()) == 1


# images that change between check and opening


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file outside of Images/; the check passes, because the file is replaced only after it."""
    (tmp_path / "Images" / "sub").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"secret")
    monkeypatch.setattr(images, "leaves_folder", lambda name, folder: None)
    return tmp_path / "out" / "a.png"


@pytest.mark.parametrize("what", ["file", "folder", "chain"])
def test_a_file_swapped_for_a_link_after_the_check(tmp_path: Path, secret: Path, what: str) -> None:
    folder, name = tmp_path / "Images", "sub/a.png"
    if what == "folder":
        (folder / "sub").rmdir()
        (folder / "sub").symlink_to(secret.parent)
    elif what == "chain":
        (folder / "sub" / "a.png").symlink_to("b.png")
        (folder / "sub" / "b.png").symlink_to(secret)
    else:
        (folder / "sub" / "a.png").symlink_to(secret)
    with pytest.raises(DataError, match=r"image 'sub/a\.png' in .* cannot be read: it is outside of its folder"):
        FileImage(name, folder).read()
    assert header_px(FileImage(name, folder)) == 0


def test_a_link_swapped_after_it_was_resolved(tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is opened is the file that the check resolved, without following a link again."""
    folder = tmp_path / "Images"
    (folder / "a.png").symlink_to("b.png")
    (folder / "b.png").write_bytes(b"fine")
    assert FileImage("a.png", folder).read() == b"fine"
    realpath = os.path.realpath

    def then_swapped(path: str | Path) -> str:
        found = realpath(path)
        if found.endswith("b.png"):
            (folder / "b.png").unlink()
            (folder / "b.png").symlink_to(secret)
        return found

    monkeypatch.setattr(os.path, "realpath", then_swapped)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_inside(folder, "a.png")


def test_links_inside_of_a_folder_that_is_a_link(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    (real / "sub").mkdir(parents=True)
    (real / "sub" / "a.png").write_bytes(b"bytes")
    (real / "other").symlink_to("sub")
    (tmp_path / "Images").symlink_to(real)
    for name in ("sub/a.png", "other/a.png", "./sub//a.png"):
        assert FileImage(name, tmp_path / "Images").read() == b"bytes"


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert header_px(FileImage("a.png", tmp_path)) == 0
    with pytest.raises(DataError, match="it is not a regular file"):
        load_image(FileImage("a.png", tmp_path), max_image_px=100)


def test_shards_may_be_links_to_files_elsewhere(tmp_path: Path) -> None:
    """As in the cache of the Hugging Face Hub."""
    (tmp_path / "AQUA").mkdir()
    pq.write_table(TABLE, tmp_path / "blob")
    (tmp_path / "AQUA" / "train-00000-of-00001.parquet").symlink_to(tmp_path / "blob")
    assert len(open_split(build_config({"base_path": str(tmp_path)}), "train").load()) == 1
