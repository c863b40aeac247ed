"""JSON read a record at a time: the same values as Python's own parser gives for the whole, and limits."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vizsage.config import build_config
from vizsage.data import json_values
from vizsage.data.json_values import MAX_DEPTH, MAX_RECORD_BYTES, BrokenRecord, JsonError, array_values, parse_line
from vizsage.data.sources import open_split
from vizsage.errors import DataError

GOOD = b'{"image": "a.jpg", "question": "q", "answer": "a"}'
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def read(text: bytes, chunk_bytes: int) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_CHUNK_BYTES", chunk_bytes)
        return list(array_values(io.BytesIO(text)))


@settings(deadline=None, max_examples=150)
@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 60))
def test_values_do_not_depend_on_where_the_file_is_cut(
    values: list[Any], indent: int | None, ascii_only: bool, chunk_bytes: int
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert read(b" \n" + text + b"\n ", chunk_bytes) == json.loads(text, parse_float=Decimal)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_what_is_no_json_is_refused_and_nothing_else(data: st.DataObject) -> None:
    text = bytearray(b'[{"a": [1.5e3, "x\\u00e9\\n"], "b": null}, -2, true, {}, [], "\xc3\xa9"]')
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b",", b"]", b"1", b'"', b"\\", b" "])
        )
    text[:1] = b"["
    try:
        expected: list[Any] | None = json.loads(text.decode(), parse_float=Decimal)
    except ValueError:
        expected = None
    try:
        found: list[Any] | None = read(bytes(text), data.draw(st.integers(1, 80)))
    except JsonError:
        found = None
    assert found == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[", "the file ends before the array does"),
        (b'[{"a": 1', "the file ends before the array does"),
        (b'[{"a": 1}', "the file ends before the array does"),
        (b'[{"a": "', "the file ends before the array does"),
        (b'[{"a":\n', "the file ends before the array does"),
        (b"[{},]\n", "Expecting value at character 5"),
        (b'[{"a\tb": 1}]', "Invalid control character at at character 5"),
        (b'[{"a" 1}, ' + b"{}, " * 50 + b"{}]", "Expecting ':' delimiter at character 7"),
        (b"[{} {}]", "expected ',', found '{' at character 5"),
        (b"[{}] {}", "something follows the array at character 6"),
        (b"[NaN]", "NaN is no JSON value"),
        (b'["\xff"]', "it is not UTF-8"),
        (b"[1" + b"1" * 5000 + b"]", "a number has thousands of digits"),
        (b"[1E9999999999999999999]", "a number is out of range"),
    ],
)
def test_errors_say_what_is_wrong(text: bytes, message: str) -> None:
    with pytest.raises(JsonError) as error:
        list(array_values(io.BytesIO(text)))
    assert str(error.value) == message


@pytest.mark.parametrize("text", [b"-0.0", b"1e400", b"1.50", b"0.00000001", b"4" * 4300])
def test_a_number_keeps_its_text(text: bytes) -> None:
    (found,) = array_values(io.BytesIO(b"[" + text + b"]"))
    assert str(found) == str(parse_line(text, 1)) == text.decode()


# limits


def config_with(tmp_path: Path, file: str, *records: bytes) -> Any:
    folder = tmp_path / "AQUA"
    folder.mkdir(exist_ok=True)
    content = b"[" + b", ".join(records) + b"]" if file == "train.json" else b"\n".join(records)
    (folder / file).write_bytes(gzip.compress(content, 1) if file.endswith("gz") else content)
    return build_config({"base_path": str(tmp_path)})


def problem(tmp_path: Path, file: str, *records: bytes) -> str:
    with pytest.raises(DataError) as error:
        open_split(config_with(tmp_path, file, *records), "train").load()
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600
    return str(error.value)


@pytest.mark.parametrize("file", ["train.json", "train.jsonl", "train.jsonl.gz"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"1" * 4301, "a number has thousands of digits"),
        (b"1" * 100_000, "a number has thousands of digits"),
        (b"[" * 40_000 + b"]" * 40_000, "it is nested more than 100 deep"),
        (b'{"a":' * 40_000 + b"1" + b"}" * 40_000, "it is nested more than 100 deep"),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "it is nested more than 100 deep"),  # the record is one more
    ],
    ids=["4301 digits", "digits", "lists", "objects", "depth"],
)
@pytest.mark.parametrize("field", [b"x", b"answer"])
def test_what_no_record_has_reason_to_be(tmp_path: Path, file: str, value: bytes, message: str, field: bytes) -> None:
    tracemalloc.start()
    try:
        found = problem(tmp_path, file, GOOD, GOOD[:-1] + b', "' + field + b'": ' + value + b"}", GOOD)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert message in found
    assert (
        "broken JSON after record 1: " if file == "train.json" else "1 bad record: record 2: broken JSON in line 2"
    ) in found


def test_brackets_of_texts_and_of_neighbours_are_no_depth(tmp_path: Path) -> None:
    record = GOOD[:-1] + b', "x": "' + b"[{" * 200 + b'\\"[", "box": [' + b"[1], " * 200 + b"[2]]}"
    for file in ("train.json", "train.jsonl"):
        assert len(open_split(config_with(tmp_path, file, record, record), "train").load()) == 2
        (tmp_path / "AQUA" / file).unlink()


@pytest.mark.parametrize("file", ["train.json", "train.jsonl", "train.jsonl.gz"])
def test_a_record_without_end_is_not_read_whole(tmp_path: Path, file: str) -> None:
    long = GOOD[:-1] + b', "x": "' + b"x" * (12 * MAX_RECORD_BYTES) + b'"}'
    config = config_with(tmp_path, file, GOOD, long)
    del long
    tracemalloc.start()
    try:
        with pytest.raises(
            DataError, match=r"(after record 1: it|line 2) has more than 8 MiB, the most that a record may"
        ):
            open_split(config, "train").load()
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_RECORD_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("file", ["train.json", "train.jsonl"])
def test_a_long_record_within_the_limit_is_read(tmp_path: Path, file: str) -> None:
    text = b"x" * (MAX_RECORD_BYTES - 1000)
    config = config_with(tmp_path, file, GOOD, GOOD[:-1] + b', "x": "' + text + b'"}', GOOD)
    samples = open_split(config, "train").load()
    assert [len(s.tags.get("x", "")) for s in samples] == [0, len(text), 0]


# half of a surrogate pair


@pytest.mark.parametrize("half", [rb"\ud83d", rb"\ude00", rb"\ude00\ud83d", rb"\ud83d\n\ude00"])
@pytest.mark.parametrize("file", ["train.json", "train.jsonl"])
def test_half_of_a_surrogate_pair_is_said(tmp_path: Path, file: str, half: bytes) -> None:
    found = problem(tmp_path, file, GOOD, GOOD.replace(b'"a"', b'"b' + half + b'c"'))
    assert "record 2 (image 'a.jpg'): answer is no valid Unicode: it holds half of a surrogate pair" in found


@pytest.mark.parametrize("file", ["train.json", "train.jsonl"])
def test_a_whole_surrogate_pair_is_one_character(tmp_path: Path, file: str) -> None:
    config = config_with(tmp_path, file, GOOD.replace(b'"a"', rb'"\ud83d\ude00"'))
    assert open_split(config, "train").load()[0].answer == "😀"


def test_a_broken_line_is_told_from_a_record() -> None:
    assert parse_line(b'{"a": 1}', 1) == {"a": 1}
    assert isinstance(parse_line(b'{"a": }', 1), BrokenRecord)
    for end in (b"", b"\n", b"\r\n"):
        told = "broken JSON in line 4, column 8: Expecting ',' delimiter"
        assert parse_line(b'{"a": 1' + end, 4) == BrokenRecord(told)
