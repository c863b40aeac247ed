"""Files of a data set with bytes changed, left out and put in: the right samples, or one line."""

from __future__ import annotations

import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vizsage.config import build_config
from vizsage.data.formats.parquet import image_column, parquet_file
from vizsage.data.formats.saved_folder import saved_table
from vizsage.data.knowledge import KnowledgeTable
from vizsage.data.sources import open_split
from vizsage.errors import DataError

ROWS = 40
CHANGES = 250


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table(), buffer, row_group_size=15)
    return buffer.getvalue()


def arrow() -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table().schema) as writer:
        writer.write_table(table(), max_chunksize=7)
    return buffer.getvalue()


def table() -> pa.Table:
    numbers = range(ROWS)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["no", "yes"]}}}}
    content = {
        "image": pa.array([{"bytes": bytes([i]), "path": f"{i}.png"} for i in numbers], image),
        "question": [f"q{i}" for i in numbers],
        "answer": pa.array([i + 0.5 for i in numbers], pa.float32()),
        "answers": [[f"a{i}", "b"] for i in numbers],
        "label": [i % 2 for i in numbers],
        "time": pa.array(numbers, pa.timestamp("us")),
    }
    return pa.table(content).replace_schema_metadata({b"huggingface": json.dumps(labels).encode()})


def lines() -> bytes:
    return b"\n".join(json.dumps({"image": "a.jpg", "question": f"q{i}", "answer": i}).encode() for i in range(6))


STATE = b'{"_data_files": [{"filename": "data.arrow"}], "_fingerprint": "x"}'
FILES: dict[str, tuple[str, Any]] = {
    "parquet": ("train.parquet", parquet),
    "arrow": ("train/data.arrow", arrow),
    "state": ("train/state.json", lambda: STATE),
    "json": ("train.json", lambda: b"[" + lines().replace(b"\n", b", ") + b"]"),
    "jsonl": ("train.jsonl", lines),
    "gzip": ("train.jsonl.gz", lambda: gzip.compress(lines(), mtime=0)),
}


def damaged(content: bytes, generator: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 5))):
        at = generator.randrange(len(data)) if data else 0
        if generator.random() < 0.6:
            data[at : at + 1] = bytes([generator.choice((0, 1, 127, 128, 255, generator.randrange(256)))])
        elif generator.random() < 0.5:
            del data[at : at + generator.randrange(1, 9)]
        else:
            data[at:at] = generator.randbytes(generator.randrange(1, 9))
    return bytes(data)


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_split_is_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    name, make = FILES[kind]
    path = tmp_path / "AQUA" / name
    path.parent.mkdir(parents=True)
    if path.parent.name == "train":
        (path.parent / "data.arrow").write_bytes(arrow())
        (path.parent / "state.json").write_bytes(STATE)
    content, generator, outcomes = make(), random.Random(0), set()
    for _ in range(CHANGES):
        path.write_bytes(damaged(content, generator))
        for cached in (parquet_file, image_column, saved_table):
            cached.cache_clear()
        try:
            samples = open_split(build_config({"base_path": str(tmp_path)}), "train").load()
            if kind in ("parquet", "arrow"):
                for sample in samples:
                    sample.images[0].read()
            outcomes.add(len(samples) > 0)
        except DataError as error:
            outcomes.add(len(str(error)) < 8000)
    assert outcomes == {True}


def test_a_damaged_table_of_descriptions(tmp_path: Path) -> None:
    content = 'image,description\n"a.jpg","says ""so"", he\nsaid"\nb.jpg,plain é\n'.encode()
    generator, outcomes = random.Random(0), set()
    for _ in range(CHANGES):
        (tmp_path / "table.csv").write_bytes(damaged(content, generator))
        try:
            outcomes.add(len(KnowledgeTable.load(tmp_path / "table.csv")) > 0)
        except DataError as error:
            outcomes.add(len(str(error)) < 2000)
    assert outcomes == {True}
