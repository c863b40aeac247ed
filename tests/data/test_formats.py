"""The registry of formats: what each must give, and identities that runs of earlier versions have recorded."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_sources import config_for, lines, record
from vizsage.config import Config
from vizsage.data import formats
from vizsage.data.formats import format as base
from vizsage.data.formats.format import Format, Place, is_file
from vizsage.data.sources import data_identity, find_split, open_split, split_identity
from vizsage.errors import DataError

Record = dict[str, Any]


@dataclass(frozen=True)
class Words(Format):
    """One record per line: image, question and answer, each a word."""

    path: Path
    layouts: ClassVar[tuple[str, ...]] = ("{0}.words",)
    float_fields: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def find(cls, place: Place) -> Iterable[Format]:
        path = place.folder / f"{place.stem}.words"
        return [cls(path)] if is_file(path) else []

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def records(self, start: int = 0) -> Iterator[Any]:
        for line in self.path.read_text().splitlines()[start:]:
            yield dict(zip(("image", "question", "answer"), line.split(), strict=True))


def test_one_more_format_is_a_class_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, Words))
    config = config_for(tmp_path)
    with pytest.raises(DataError, match=r"train\.json, .* or train\.words; found nothing"):
        open_split(config, "train")
    (config.split_dir / "train.words").write_text("a.jpg who Titian\nb.jpg what boat\n")
    split = open_split(config, "train")
    assert [(s.sample_id, s.image_names, s.answer) for s in split.load()] == [
        ("train-0", "a.jpg", "Titian"),
        ("train-1", "b.jpg", "boat"),
    ]
    assert split_identity(config, "train") == split.source.identity()
    (config.split_dir / "train.jsonl").write_bytes(lines([record()]))
    with pytest.raises(DataError, match=r"more than once: .*train\.jsonl and .*train\.words; keep one"):
        find_split(config, "train")


def test_the_message_of_a_missing_split_lists_all_layouts() -> None:
    message = formats.layouts("val")
    layouts = [layout.format("val") for form in formats.FORMATS for layout in form.layouts]
    assert {"val.json", "val.jsonl.gz", "val.parquet", "a folder val of save_to_disk"} <= set(layouts)
    assert message == f"{', '.join(layouts[:-1])} or {layouts[-1]}"


def write_json_array(place: Place, records: list[Record]) -> None:
    (place.folder / "train.json").write_text(json.dumps(records))


def write_json_lines(place: Place, records: list[Record]) -> None:
    (place.folder / "train.jsonl").write_bytes(lines(records))


def write_parquet(place: Place, records: list[Record]) -> None:
    for i in range(2):
        pq.write_table(
            pa.Table.from_pylist(records[2 * i : 2 * i + 2]), place.folder / f"train-0000{i}-of-00002.parquet"
        )


def write_saved_folder(place: Place, records: list[Record]) -> None:
    datasets.Dataset.from_list(records).save_to_disk(place.folder / "train")


# How to write a split of a format: each that is registered has an entry.
WRITERS: dict[type[Format], Callable[[Place, list[Record]], None]] = {
    formats.JsonArray: write_json_array,
    formats.JsonLines: write_json_lines,
    formats.ParquetFiles: write_parquet,
    formats.SavedFolder: write_saved_folder,
}


@pytest.mark.parametrize("form", formats.FORMATS)
def test_each_format_reads_from_any_record_on_and_in_other_processes(tmp_path: Path, form: type[Format]) -> None:
    """A continued stream begins in the middle of a split, and workers get the format pickled."""
    place = Place(tmp_path, "train", "train", tmp_path / "Images")
    records = [record(image=f"{i}.jpg", question=f"what is {i}") for i in range(4)]
    WRITERS[form](place, records)
    [found] = form.find(place)
    everything = list(found.records())
    assert [(one["image"], one["question"]) for one in everything] == [(r["image"], r["question"]) for r in records]
    for start in range(6):
        assert list(pickle.loads(pickle.dumps(found)).records(start)) == everything[start:]
    assert [one for one in formats.FORMATS if list(one.find(place))] == [form]
    assert found.paths
    before = found.identity(), found.state()
    WRITERS[form](place, records[:3])
    [changed] = form.find(place)
    assert before != (changed.identity(), changed.state())
    assert before[0] != changed.identity()


def hashed(*paths: Path, ends: int | None = None) -> str:
    """What record.data_identity of version 0.2 recorded in run.json; of a file larger than both `ends`, only these."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}:".encode())
        digest.update(content if ends is None else content[:ends] + content[-ends:])
    return digest.hexdigest()


def shards(config: Config) -> list[Path]:
    names = [config.split_dir / f"train-0000{i}-of-00002.parquet" for i in range(2)]
    for path in names:
        pq.write_table(pa.Table.from_pylist([record()]), path)
    return names


def saved(config: Config) -> list[Path]:
    folder = config.split_dir / "train"
    folder.mkdir()
    table = pa.Table.from_pylist([record()])
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    return [folder / "data.arrow", folder / "state.json"]


def json_lines(config: Config) -> list[Path]:
    path = config.split_dir / "train.jsonl"
    path.write_bytes(lines([record()]))
    return [path]


@pytest.mark.parametrize("write", [json_lines, shards, saved])
def test_identities_stay_those_of_earlier_versions(tmp_path: Path, write: Any) -> None:
    """A run that an earlier version began is continued only with equal ones."""
    config = config_for(tmp_path)
    files = write(config)
    split = open_split(config, "train")
    assert split.source.identity() == split_identity(config, "train") == hashed(*files)
    table = tmp_path / "semart.csv"
    table.write_text("IMAGE_FILE\tDESCRIPTION\n")
    assert data_identity([split.source, split.source], table) == hashed(*files, *files, table)
    assert split_identity(config, "val") is None


def test_of_a_large_file_size_and_both_ends_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.words"
    path.write_bytes(os.urandom(100))
    monkeypatch.setattr(base, "_HASHED_WHOLE_BYTES", 99)
    monkeypatch.setattr(base, "_PIECE_BYTES", 10)
    assert Words(path).identity() == hashed(path, ends=10)


def test_finding_and_reading_json_loads_no_pyarrow(tmp_path: Path) -> None:
    """It takes as long to load as the whole of `vizsage --help`."""
    config = config_for(tmp_path)
    json_lines(config)
    code = (
        "import sys; from vizsage.config import build_config; from vizsage.data.sources import open_split; "
        f"open_split(build_config({{'base_path': {str(tmp_path)!r}}}), 'train').load(); "
        "sys.exit('pyarrow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
