"""JSON and JSONL splits: finding them, checking every record, knowledge, streaming."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vizsage.config import Config, build_config
from vizsage.data.images import FileImage
from vizsage.data.record_fields import read_answers
from vizsage.data.sample import Sample
from vizsage.data.sources import Split, SplitCounts, find_split, open_split
from vizsage.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "aqua"
Record = dict[str, Any]


def record(**changes: Any) -> Record:
    return {"image": "a.jpg", "question": "what", "answer": "a dog", "need_external_knowledge": False, **changes}


def config_for(tmp_path: Path, **settings: Any) -> Config:
    (tmp_path / "AQUA").mkdir(exist_ok=True)
    return build_config({"base_path": str(tmp_path), **settings})


WRITERS: dict[str, Callable[[Path, list[Any]], None]] = {
    "train.json": lambda path, records: path.write_text(json.dumps(records), encoding="utf-8") and None,
    "train.jsonl": lambda path, records: path.write_bytes(lines(records)) and None,
    "train.jsonl.gz": lambda path, records: path.write_bytes(gzip.compress(lines(records))) and None,
}


def lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()


def split_of(tmp_path: Path, records: list[Any], file: str = "train.json", **settings: Any) -> Split:
    config = config_for(tmp_path, **settings)
    WRITERS[file](config.split_dir / file, records)
    return open_split(config, "train")


def problem(tmp_path: Path, records: list[Any], file: str = "train.jsonl") -> str:
    """The message of the error that loading and scanning raise."""
    split = split_of(tmp_path, records, file)
    with pytest.raises(DataError) as error:
        split.load()
    with pytest.raises(DataError) as scanned:
        split.scan(2)
    assert str(error.value) == str(scanned.value)
    assert "\n" not in str(error.value)
    assert str(split.path) in str(error.value)
    return str(error.value)


# finding


def test_find_split(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    assert find_split(config, "val") is None
    (config.split_dir / "validation.jsonl").write_bytes(lines([record()]))
    assert find_split(config, "val") == find_split(config, "validation") == config.split_dir / "validation.jsonl"
    assert open_split(config, "validation").name == "val"
    assert open_split(config, "val").load()[0].sample_id == "val-0"


def test_any_file_stem_is_a_split(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    (config.split_dir / "hard-cases.json").write_text(json.dumps([record()]))
    assert open_split(config, "hard-cases").load()[0].sample_id == "hard-cases-0"


@pytest.mark.parametrize("name", ["../AQUA/train", "/etc/passwd", "", ".", ".hidden"])
def test_split_is_a_name_not_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not a name"):
        open_split(config_for(tmp_path), name)


def test_missing_split_says_what_is_expected_and_what_is_there(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    (config.split_dir / "train.csv").write_text("x")
    with pytest.raises(
        DataError, match=r"no split 'train'; expected one of train\.json, .* found train\.csv; CSV is not read: docs/"
    ):
        open_split(config, "train")
    with pytest.raises(DataError, match="no such folder; base_path and dataset"):
        open_split(config_for(tmp_path, dataset="GONE"), "train")


@pytest.mark.parametrize(("one", "other"), [("train.json", "train.jsonl"), ("train.jsonl", "train.jsonl.gz")])
def test_two_files_for_one_split(tmp_path: Path, one: str, other: str) -> None:
    config = config_for(tmp_path)
    for name in (one, other):
        WRITERS[name](config.split_dir / name, [record()])
    with pytest.raises(DataError, match=f"{one} and .*{other}; keep one"):
        open_split(config, "train")


def test_val_and_validation_are_one_split(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    for name in ("val.json", "validation.json"):
        (config.split_dir / name).write_text(json.dumps([record()]))
    with pytest.raises(DataError, match=r"val\.json and .*validation\.json"):
        find_split(config, "val")


# formats


@pytest.mark.parametrize("file", WRITERS)
def test_formats_give_the_same_samples(tmp_path: Path, file: str) -> None:
    records = [
        record(answer="ÜÉ 東京 😀", id="first", school="Dutch", year=1642, ratio=1.50, signed=True, none=None, box=[1]),
        record(image="sub/b.jpg", need_external_knowledge=True),
        record(image="c.jpg", answer=3),
    ]
    samples = split_of(tmp_path, records, file).load()
    assert [s.sample_id for s in samples] == ["first", "train-2"]
    assert samples[0].images[0] == FileImage("a.jpg", tmp_path / "Images")
    assert (samples[0].answer, samples[1].answer) == ("ÜÉ 東京 😀", "3")
    assert samples[0].tags == {"school": "Dutch", "year": "1642", "ratio": "1.5", "signed": "true"}
    assert list(samples[1].tags) == []


@pytest.mark.parametrize("file", WRITERS)
def test_byte_order_mark(tmp_path: Path, file: str) -> None:
    config = config_for(tmp_path)
    path = config.split_dir / file
    WRITERS[file](path, [record()])
    mark = b"\xef\xbb\xbf"
    content = path.read_bytes()
    path.write_bytes(gzip.compress(mark + gzip.decompress(content)) if file.endswith("gz") else mark + content)
    assert len(open_split(config, "train").load()) == 1


@pytest.mark.parametrize("file", ["train.json", "train.jsonl"])
def test_number_keeps_the_text_it_was_written_with(tmp_path: Path, file: str) -> None:
    config = config_for(tmp_path)
    text = '{"image": "a.jpg", "question": "how tall", "answer": 1.50}'
    (config.split_dir / file).write_text(f"[{text}]" if file == "train.json" else text)
    assert open_split(config, "train").load()[0].answer == "1.50"


def test_empty_lines_are_no_records(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    (config.split_dir / "train.jsonl").write_bytes(b"\n" + lines([record()]) + b"\n  \r\n" + lines([record()])[:-1])
    assert [s.sample_id for s in open_split(config, "train").load()] == ["train-0", "train-1"]


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("train.json", b"", "nothing"),
        ("train.json", b"[]", "no records"),
        (
            "train.json",
            b'{"data": []}',
            "expected a JSON array of records, found an object with the records under 'data'",
        ),
        ("train.json", b"\xff\xfe[\x00]\x00", "expected a JSON array"),
        ("train.json", b"[{]", "broken JSON after record 0"),
        ("train.json", b'[{"image": "a\xff"}]', "broken JSON"),
        ("train.jsonl", b"", "no records"),
        ("train.jsonl", b"\n\n", "no records"),
        ("train.jsonl.gz", b"not gzip at all", "cannot be read"),
        ("train.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:20], "cannot be read"),
        ("train.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:10] + b"\xff" * 50, "cannot be read"),
    ],
)
def test_unreadable_files_are_found_on_opening(tmp_path: Path, file: str, content: bytes, match: str) -> None:
    config = config_for(tmp_path)
    (config.split_dir / file).write_bytes(content)
    with pytest.raises(DataError, match=match) as error:
        open_split(config, "train")
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_file_cut_short(tmp_path: Path) -> None:
    split = split_of(tmp_path, [record() for _ in range(5)])
    content = split.path.read_bytes()
    split.path.write_bytes(content[:-40])
    with pytest.raises(DataError, match="broken JSON after record 4"):
        open_split(config_for(tmp_path), "train").load()


def test_broken_line_does_not_hide_the_others(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    good = lines([record()])
    (config.split_dir / "train.jsonl").write_bytes(
        good + b'{"image": \n' + b'{"question": "\xe9"}\n' + good + b'{"answer": NaN}\n'
    )
    with pytest.raises(DataError) as error:
        open_split(config, "train").load()
    for part in ("3 bad records", "record 2: broken JSON in line 2, column ", "record 3: line 3 is not UTF-8", "NaN"):
        assert part in str(error.value)


# records


@pytest.mark.parametrize("file", ["train.json", "train.jsonl"])
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"answer": None}, "answer is missing"),
        ({"answer": ""}, "answer is empty"),
        ({"answer": " \t\n"}, "answer is empty"),
        ({"answer": True}, "answer is true"),
        ({"answer": ["a"]}, "write a text or a number; several accepted answers are a list 'answers'"),
        ({"answers": []}, "answers is empty; write a list of one or more texts or numbers"),
        ({"answers": "a dog"}, "answers is 'a dog'; write a list"),
        ({"answers": 3}, "answers is 3; write a list"),
        ({"answers": {"a dog": 3}}, "answers is an object; write a list"),
        ({"answers": ["a dog", ""]}, "answers[1] is empty; write a text or a number"),
        ({"answers": [None]}, "answers[0] is missing"),
        ({"answers": ["a dog", "b", True]}, "answers[2] is true"),
        ({"answers": [["a dog"]]}, "answers[0] is a list"),
        (
            {"answers": [{"answer": "a dog"}]},
            "answers[0] is an object; write a text or a number, the one under 'answer'",
        ),
        ({"answers": ["a dog"], "answer": " "}, "answer is empty"),
        ({"answers": ["a dog"], "answer": ["b"]}, "answer is a list"),
        ({"question": None}, "question is missing"),
        ({"question": {}}, "question is an object"),
        ({"image": None}, "image is missing"),
        ({"image": " "}, "image is empty"),
        ({"image": 7}, "image is 7"),
        ({"image": ["a.jpg"]}, "image is a list"),
        ({"image": "../a.jpg"}, "leaves"),
        ({"image": "/etc/hostname"}, "leaves"),
        ({"image": "a\0.jpg"}, "NUL"),
        ({"need_external_knowledge": "maybe"}, "need_external_knowledge is 'maybe'; write true or false"),
        ({"need_external_knowledge": 2}, "need_external_knowledge is 2"),
        ({"need_external_knowledge": 0.5}, "need_external_knowledge is 0.5; write true or false"),
        ({"need_external_knowledge": []}, "need_external_knowledge is a list"),
        ({"id": True}, "id is true"),
        ({"id": 1.5}, "record 2 (id 1.5, image 'a.jpg'): id is 1.5; write a text or a whole number"),
        ({"id": ""}, "id is ''"),
    ],
)
def test_bad_record_is_named(tmp_path: Path, file: str, changes: Record, match: str) -> None:
    message = problem(tmp_path, [record(), record(**changes)], file)
    assert "1 bad record: record 2" in message
    assert match in message
    if (isinstance(changes.get("image"), str) and changes["image"].strip()) or "image" not in changes:
        assert f"image {changes.get('image', 'a.jpg')!r}" in message


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize(
    ("answer", "answers", "learned", "accepted"),
    [
        ("cat", None, "cat", ("cat",)),
        (None, ["dog", "cat", " cat "], "cat", ("dog", "cat", "cat")),  # the most frequent one
        (None, ["dog", "cat", "cat", "dog"], "dog", ("dog", "cat", "cat", "dog")),  # the first of those
        (None, ["cat"], "cat", ("cat",)),
        ("dog", ["cat", "cat", "dog"], "dog", ("cat", "cat", "dog")),
        (" cow", ["cat", "dog"], "cow", ("cat", "dog")),  # accepted too, but no annotator's
        (None, [2, 2.5, "two"], "2", ("2", "2.5", "two")),
        (3, ["3", "three"], "3", ("3", "three")),
    ],
)
def test_several_answers(tmp_path: Path, file: str, answer: Any, answers: Any, learned: str, accepted: Any) -> None:
    (sample,) = split_of(tmp_path, [record(answer=answer, answers=answers, school="Dutch")], file).load()
    assert (sample.answer, sample.answers) == (learned, accepted)
    assert sample.tags == {"school": "Dutch"}


def test_answer_is_not_put_among_the_answers_of_a_record() -> None:
    """Also where no Sample is made of it: `vizsage score` reads lines of other tools this way."""
    assert read_answers({"answer": "cow", "answers": ["cat", "cat"]}) == ("cow", ("cat", "cat"))
    assert read_answers({"answer": "cat", "answers": ["dog", "cat"]}) == ("cat", ("dog", "cat"))


def test_answers_may_stand_instead_of_answer(tmp_path: Path) -> None:
    several = record(answers=["cat"])
    del several["answer"]
    assert split_of(tmp_path, [several]).load()[0].answer == "cat"


def test_a_sample_without_a_list_of_answers_has_its_own() -> None:
    image = FileImage("a.jpg", Path("Images"))
    assert Sample("1", (image,), "what", "cat").answers == ("cat",)
    assert Sample("1", (image,), "what", "cat", answers=("dog", "dog")).answers == ("dog", "dog")
    sample = Sample("1", (image,), "what", "cat", answers=("dog", "cat"))
    assert pickle.loads(pickle.dumps(sample)) == sample
    assert sample.answers == ("dog", "cat")


def test_bad_record_at_the_start_of_a_block(tmp_path: Path) -> None:
    assert "1 bad record: record 1 " in problem(tmp_path, [record(answer=""), record(), record()])


def test_absent_answer_and_records_that_are_no_objects(tmp_path: Path) -> None:
    incomplete = record(id=17)
    del incomplete["answer"]
    message = problem(tmp_path, [incomplete, "text", None, [1]])
    for part in ("record 1 (id 17, image 'a.jpg'): answer is missing", "record 2: expected an object, found 'text'",
                 "record 3: expected an object, found null", "record 4: expected an object, found a list"):  # fmt: skip
        assert part in message


@pytest.mark.parametrize("field", ["answer", "question", "image", "id", "school"])
def test_half_of_a_surrogate_pair(tmp_path: Path, field: str) -> None:
    """Found before a model answers: no file of predictions could be written with it."""
    config = config_for(tmp_path)
    (config.split_dir / "train.jsonl").write_text(json.dumps(record(**{field: "a\udfff"})))
    with pytest.raises(DataError, match=rf"record 1 .*{field}.* is no valid Unicode") as error:
        open_split(config, "train").load()
    assert str(error.value).isprintable()


def test_symlink_out_of_images_is_named_with_its_record(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    (tmp_path / "Images" / "a.jpg").symlink_to("/etc/hostname")
    assert "record 1 (image 'a.jpg'): the image name is a symbolic link that leaves" in problem(tmp_path, [record()])


def test_first_ten_problems_and_the_count_of_all(tmp_path: Path) -> None:
    message = problem(tmp_path, [record(answer="") for _ in range(25)])
    assert "25 bad records: record 1 " in message
    assert "record 10 " in message
    assert "record 11 " not in message
    assert message.endswith("; and 15 more")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True), (False, False), ("true", True), ("False", False), ("TRUE ", True), (1, True), (0, False),
        (1.0, True), (None, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("file", ["train.json", "train.jsonl"])
def test_need_external_knowledge(tmp_path: Path, file: str, value: Any, expected: bool) -> None:
    split = split_of(tmp_path, [record(), record(need_external_knowledge=value)], file)
    assert len(split.load()) == (1 if expected else 2)


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (["x", "y", "x"], "1 bad record: record 3: id 'x' is already that of record 1"),
        ([None, 5, "5"], "record 3: id '5' is already that of record 2"),
        ([None, "train-0"], "record 2: id 'train-0' is already that of record 1"),
        (["train-1", None], "record 2: id 'train-1' is already that of record 1"),
        (["x", "x", "x"], "2 bad records"),
    ],
)
def test_duplicate_ids(tmp_path: Path, ids: list[Any], match: str) -> None:
    assert match in problem(tmp_path, [record(id=i) for i in ids])


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ("data:image/png;base64," + "iVBORw0KGgo" * 3000, "a data URL of 33022 characters"),
        ("https://example.org/a.jpg", "a URL"),
        ("s3://bucket/a.jpg", "a URL"),
        ("/9j/4AAQSkZJRgABAQ" * 2000, "an image as base64, 36000 characters"),
        ("iVBORw0KGgo" * 10, "an image as base64, 110 characters"),
        ("x" * 256, "a text of 256 characters, more than a name can have"),
        ("ab/" * 1400, "a text of 4200 characters"),
    ],
)
def test_an_image_that_is_no_file_name_is_called_what_it_is(tmp_path: Path, image: str, kind: str) -> None:
    message = problem(tmp_path, [record(image=image)] * 12)
    assert f"image is {kind}" in message
    assert "URLs and base64 are not read: save the image as a file below Images/" in message
    assert len(message) < 10 * 500 + len(str(tmp_path))


@pytest.mark.parametrize("field", ["id", "image", "question", "answer", "school"])
def test_long_texts_of_a_record_are_shortened_and_shown_without_control_characters(tmp_path: Path, field: str) -> None:
    long = record(**{field: "\x1b[31m\u202e" + "x/" * 1500, "need_external_knowledge": "maybe"})
    message = problem(tmp_path, [long, record(id=long.get("id")), record(id=long.get("id"))])
    assert len(message) < 1200 + len(str(tmp_path))
    assert message.isprintable()


# knowledge


def knowledge(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "table.csv").write_bytes("IMAGE_FILE\tDESCRIPTION\na.jpg\tà words\n".encode("latin-1"))
    return {"external_knowledge": True, "external_knowledge_path": str(tmp_path / "table.csv")}


RECORDS = [record(), record(need_external_knowledge=True), record(image="b.jpg", need_external_knowledge=True)]


def test_without_knowledge_such_samples_are_left_out_and_counted(tmp_path: Path) -> None:
    split = split_of(tmp_path, RECORDS)
    assert [s.sample_id for s in split.load()] == ["train-0"]
    assert split.counts == SplitCounts(records=3, kept=1, left_out_knowledge=2, missing_description=0)


def test_with_knowledge_only_those_that_need_it_get_a_description(tmp_path: Path) -> None:
    split = split_of(tmp_path, RECORDS, **knowledge(tmp_path))
    assert [s.description for s in split.load()] == [None, "à words", None]
    assert split.counts == SplitCounts(records=3, kept=3, left_out_knowledge=0, missing_description=1)


def test_all_left_out_is_an_error(tmp_path: Path) -> None:
    assert "all 2 records need external knowledge" in problem(tmp_path, RECORDS[1:])


def test_unusable_table_is_found_on_opening(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such table"):
        split_of(tmp_path, RECORDS, external_knowledge=True, external_knowledge_path=str(tmp_path / "gone.csv"))


def test_a_changed_table_is_read_again(tmp_path: Path) -> None:
    settings = knowledge(tmp_path)
    assert split_of(tmp_path, RECORDS, **settings).load()[1].description == "à words"
    (tmp_path / "table.csv").write_text("image,description\na.jpg,other\n")
    assert split_of(tmp_path, RECORDS, **settings).load()[1].description == "other"


# streaming


@pytest.mark.parametrize("file", WRITERS)
def test_stream_equals_load_from_any_record(tmp_path: Path, file: str) -> None:
    records = [record(answer=str(i), need_external_knowledge=i % 3 == 0) for i in range(20)]
    split = split_of(tmp_path, records, file)
    samples = split.load()
    assert list(split.stream()) == samples
    for start in range(21):
        expected = [(int(s.answer), s) for s in samples if int(s.answer) >= start]
        assert list(split.numbered(start)) == expected


def test_scan_counts_kept_samples_of_each_block(tmp_path: Path) -> None:
    split = split_of(tmp_path, [record(need_external_knowledge=i in (0, 1, 3, 6)) for i in range(7)])
    assert split.scan(2) == [0, 1, 2, 0]
    assert split.counts == SplitCounts(records=7, kept=3, left_out_knowledge=4)


def test_stream_stops_at_a_bad_record(tmp_path: Path) -> None:
    split = split_of(tmp_path, [record(), record(answer="")])
    stream = split.stream()
    next(stream)
    with pytest.raises(DataError, match=r"record 2 \(image 'a\.jpg'\): answer is empty"):
        next(stream)


def test_stream_notices_that_the_file_changed(tmp_path: Path) -> None:
    split = split_of(tmp_path, [record()])
    split.path.write_text(json.dumps([record(), record()]))
    with pytest.raises(DataError, match="changed while it was in use"):
        next(split.stream())


def test_stream_reads_no_further_than_it_must(tmp_path: Path) -> None:
    """The end of the file is broken, and the first samples are read nevertheless."""
    split = split_of(tmp_path, [record(answer=str(i)) for i in range(5000)])
    split.path.write_bytes(split.path.read_bytes()[:-10])
    stream = open_split(config_for(tmp_path), "train").stream()
    assert [next(stream).answer for _ in range(100)] == [str(i) for i in range(100)]


def test_split_is_small_when_pickled(tmp_path: Path) -> None:
    split = split_of(tmp_path, [record(answer=str(i)) for i in range(1000)])
    split.load()
    data = pickle.dumps(split)
    assert len(data) < 3000
    assert pickle.loads(data).load() == split.load()


# the real split


@pytest.mark.skipif(not (SHARED / "val.json").is_file(), reason="AQUA's validation split in ../shared is not here")
def test_the_real_validation_split() -> None:
    config = build_config(
        {
            "base_path": str(SHARED.parent),
            "dataset": SHARED.name,
            "external_knowledge": True,
            "external_knowledge_path": str(SHARED / "semart_val.csv"),
        }
    )
    split = open_split(config, "val")
    samples = split.load()
    assert split.counts == SplitCounts(records=5124, kept=5124, left_out_knowledge=0, missing_description=0)
    assert len({s.images[0].name for s in samples}) == 1040
    assert sum(s.need_external_knowledge for s in samples) == 3617
    assert all((s.description is not None) == s.need_external_knowledge for s in samples)
    raw = json.loads((SHARED / "val.json").read_text(encoding="utf-8"))
    assert [(s.images[0].name, s.question, s.answer) for s in samples] == [
        (r["image"], r["question"], str(r["answer"])) for r in raw
    ]
    without = open_split(config.model_copy(update={"external_knowledge": False}), "val")
    assert len(without.load()) == 1507
    assert without.counts.left_out_knowledge == 3617
