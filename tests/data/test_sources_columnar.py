"""Parquet files and data sets on disk: images stay in the file until they are asked for, row by row."""

from __future__ import annotations

import io
import multiprocessing
import pickle
from collections.abc import Callable
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vizsage.config import Config, build_config
from vizsage.data.batching import SampleOrder, memory_order, stream_order
from vizsage.data.formats import columns, parquet, saved_folder
from vizsage.data.images import FileImage, load_image
from vizsage.data.sources import open_split
from vizsage.errors import DataError

Rows = list[dict[str, Any]]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TYPES: dict[str, pa.DataType] = {}  # of columns whose type differs from that of their values


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count: int, image: Callable[[int], Any] = lambda i: {"bytes": png(i), "path": f"{i // 2}.png"}) -> Rows:
    return [
        {
            "image": image(i),
            "question": f"q{i}",
            "answer": f"a{i}",
            "need_external_knowledge": i % 5 == 4,
            "year": 1600 + i,
        }
        for i in range(count)
    ]


def config_for(tmp_path: Path) -> Config:
    (tmp_path / "AQUA").mkdir(exist_ok=True)
    return build_config({"base_path": str(tmp_path)})


def table(records: Rows, image_type: pa.DataType = STRUCT) -> pa.Table:
    columns = {key: [r[key] for r in records] for key in records[0]}
    kinds = {"image": image_type, **TYPES}
    return pa.table({key: pa.array(values, kinds.get(key)) for key, values in columns.items()})


def write_parquet(folder: Path, records: Rows, image_type: pa.DataType = STRUCT) -> None:
    pq.write_table(table(records, image_type), folder / "train.parquet", row_group_size=7)


def write_shards(folder: Path, records: Rows) -> None:
    for i, part in enumerate((records[:9], records[9:10], records[10:])):
        pq.write_table(table(part), folder / f"train-{i:05d}-of-00003.parquet", row_group_size=4)


def write_arrow(folder: Path, records: Rows) -> None:
    """What Dataset.save_to_disk writes, in two files."""
    (folder / "train").mkdir()
    content = table(records)
    half = len(records) // 2
    for i, part in enumerate((content.slice(0, half), content.slice(half))):
        path = str(folder / "train" / f"data-0000{i}-of-00002.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, part.schema) as writer:
            writer.write_table(part, max_chunksize=5)
    (folder / "train" / "state.json").write_text(
        '{"_data_files": [{"filename": "data-00000-of-00002.arrow"}, {"filename": "data-00001-of-00002.arrow"}]}'
    )


WRITERS = {"parquet": write_parquet, "shards": write_shards, "arrow": write_arrow}


@pytest.fixture(autouse=True)
def _empty_caches() -> None:
    for cached in (parquet.parquet_file, parquet.image_column, saved_folder.saved_table):
        cached.cache_clear()


@pytest.mark.parametrize("form", WRITERS)
def test_samples_and_their_images(tmp_path: Path, form: str) -> None:
    config = config_for(tmp_path)
    WRITERS[form](config.split_dir, rows(30))
    split = open_split(config, "train")
    samples = split.load()
    assert (split.counts.records, split.counts.kept, split.counts.left_out_knowledge) == (30, 24, 6)
    assert [s.sample_id for s in samples] == [f"train-{i}" for i in range(30) if i % 5 != 4]
    for sample in samples:
        i = int(sample.sample_id.split("-")[1])
        assert (sample.question, sample.answer, sample.images[0].name) == (f"q{i}", f"a{i}", f"{i // 2}.png")
        assert sample.tags == {"year": str(1600 + i)}
        assert sample.images[0].read() == png(i)
        assert load_image(sample.images[0], max_image_px=100).getpixel((0, 0)) == (i, i, i)


@pytest.mark.parametrize("form", WRITERS)
def test_stream_from_any_record(tmp_path: Path, form: str) -> None:
    config = config_for(tmp_path)
    WRITERS[form](config.split_dir, rows(30))
    split = open_split(config, "train")
    everything = list(split.numbered())
    for start in range(31):
        assert list(split.numbered(start)) == [(n, s) for n, s in everything if n >= start]


@pytest.mark.parametrize("form", WRITERS)
def test_reading_records_reads_no_image(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path)
    WRITERS[form](config.split_dir, rows(30))
    read: list[Any] = []
    iter_batches = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, *args: Any, **kwargs: Any) -> Any:
        read.extend(kwargs.get("columns") or args[2])
        return iter_batches(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    monkeypatch.setattr(columns, "image_bytes", lambda value: pytest.fail("an image was read"))
    split = open_split(config, "train")
    assert len(split.load()) == len(list(split.stream())) == 24
    assert not {"image", "image.bytes"} & set(read)
    assert form == "arrow" or "image.path" in read


def test_start_passes_over_row_groups_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path)
    write_parquet(config.split_dir, rows(30))
    split = open_split(config, "train")
    groups: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, size: int, row_groups: list[int], *args: Any, **kwargs: Any) -> Any:
        groups.extend(row_groups)
        return iter_batches(self, size, row_groups, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    assert next(split.numbered(15))[0] == 15
    assert groups == [2]


def nameless(count: int, images: int) -> Rows:
    """Rows that embed `images` images in turn, without a path, as many data sets on the Hub do."""
    return rows(count, lambda i: {"bytes": png(i % images), "path": None})


def order_of(kind: str, config: Config) -> SampleOrder:
    """An order of a split that is opened again, as in each process."""
    split = open_split(config, "train")
    return memory_order(split.load(), 0) if kind == "memory" else stream_order(split, 0, 12)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_rows_that_embed_the_same_nameless_image_are_one_group(tmp_path: Path, form: str, kind: str) -> None:
    config = config_for(tmp_path)
    WRITERS[form](config.split_dir, [{**r, "need_external_knowledge": False} for r in nameless(36, 5)])
    order = order_of(kind, config)
    epoch = list(islice(order.from_position(0), 36))
    assert sorted(s.sample_id for s in epoch) == sorted(f"train-{i}" for i in range(36))
    for block in [epoch] if kind == "memory" else [epoch[:12], epoch[12:24], epoch[24:]]:
        images = [image for image, _ in groupby(s.images[0] for s in block)]
        assert len(images) == len(set(images)) == 5
        # The first record that embeds it names it, and each question still has its own image.
        assert {i.name for i in images} == {f"train-{n}" for n in sorted(int(s.sample_id[6:]) for s in block)[:5]}
    assert all(s.images[0].read() == png(int(s.sample_id[6:]) % 5) for s in epoch)
    for position in (1, 17, 35):  # a continued run takes up the same samples with the same references
        assert list(islice(order_of(kind, config).from_position(position), 36 - position)) == epoch[position:]


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_images_with_a_name_are_not_read_for_the_order(
    tmp_path: Path, form: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path)
    WRITERS[form](config.split_dir, rows(30))
    monkeypatch.setattr(columns, "image_bytes", lambda value: pytest.fail("an image was read"))
    assert len(list(islice(order_of(kind, config).from_position(0), 24))) == 24


@pytest.mark.parametrize("form", WRITERS)
def test_a_stream_begins_without_reading_nameless_images(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the block at hand is read, and only when its samples are asked for."""
    config = config_for(tmp_path)
    WRITERS[form](config.split_dir, [{**r, "need_external_knowledge": False} for r in nameless(36, 5)])
    read: list[Any] = []
    bytes_of = columns.image_bytes
    monkeypatch.setattr(columns, "image_bytes", lambda value: read.append(value) or bytes_of(value))
    order = order_of("stream", config)
    assert not read
    next(order.from_position(24))
    assert len(read) == 12


def test_a_nameless_image_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    write_parquet(config.split_dir, rows(3, lambda i: {"bytes": png(1) if i else None, "path": None}))
    with pytest.raises(DataError, match=r"image 'train-0' is missing in .*Images"):
        order_of("memory", config)


def test_a_large_row_group_is_passed_through_once_when_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "CACHED_ROW_GROUP_BYTES", 0)
    config = config_for(tmp_path)
    content = table(rows(1000, lambda i: {"bytes": i.to_bytes(4, "big") * 2500, "path": f"{i}.png"}))
    pq.write_table(
        content, config.split_dir / "train.parquet", use_dictionary=False, write_batch_size=8, compression="none"
    )
    samples = open_split(config, "train").load()
    passes: list[Any] = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *args, **kwargs: passes.append(0) or iter_batches(*args, **kwargs)
    )
    before = pa.total_allocated_bytes()
    for sample in samples:
        for _ in range(2):
            assert sample.images[0].read() == int(sample.sample_id[6:]).to_bytes(4, "big") * 2500
        assert pa.total_allocated_bytes() - before < 4 * 2**20  # of 10 MB
    assert len(passes) == 1
    assert samples[0].images[0].read() == bytes(10_000)
    assert len(passes) == 2


@pytest.mark.parametrize("limit", [0, parquet.CACHED_ROW_GROUP_BYTES])
def test_images_of_large_row_groups_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(parquet, "CACHED_ROW_GROUP_BYTES", limit)
    config = config_for(tmp_path)
    pq.write_table(table(rows(60)), config.split_dir / "train.parquet")
    samples = open_split(config, "train").load()
    for sample in reversed(samples):
        assert sample.images[0].read() == png(int(sample.sample_id.split("-")[1]))
    assert parquet.image_column.cache_info().currsize == (1 if limit else 0)


def test_cache_holds_two_row_groups(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    write_parquet(config.split_dir, rows(30))
    for sample in open_split(config, "train").load():
        sample.images[0].read()
    assert parquet.image_column.cache_info().currsize == 2
    assert parquet.image_column.cache_info().misses == 5


@pytest.mark.parametrize("name_column", [None, "file_name"])
def test_raw_bytes(tmp_path: Path, name_column: str | None) -> None:
    config = config_for(tmp_path)
    records = rows(10, png)
    if name_column:
        records = [{**r, name_column: f"{i // 2}.png"} for i, r in enumerate(records)]
    write_parquet(config.split_dir, records, pa.binary())
    samples = open_split(config, "train").load()
    for sample in samples:
        i = int(sample.sample_id.split("-")[1])
        assert sample.images[0].read() == png(i)
        assert sample.images[0].name == (f"{i // 2}.png" if name_column else f"train-{i}")


def test_path_is_absent_or_the_image_is_a_file(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    (tmp_path / "Images").mkdir()
    (tmp_path / "Images" / "out.png").write_bytes(png(77))
    write_parquet(
        config.split_dir,
        [
            r
            for i, r in enumerate(rows(3, lambda i: {"bytes": None if i else png(0), "path": "out.png" if i else None}))
        ],
    )
    samples = open_split(config, "train").load()
    assert [s.images[0].name for s in samples] == ["train-0", "out.png", "out.png"]
    assert [s.images[0].read() for s in samples] == [png(0), png(77), png(77)]


@pytest.mark.parametrize("image_type", [STRUCT, pa.string(), pa.large_string()])
def test_images_that_are_all_files(tmp_path: Path, image_type: pa.DataType) -> None:
    config = config_for(tmp_path)
    write_parquet(
        config.split_dir,
        rows(8, lambda i: {"bytes": None, "path": "a.png"} if image_type == STRUCT else "a.png"),
        image_type,
    )
    assert open_split(config, "train").load()[0].images[0] == FileImage("a.png", tmp_path / "Images")


def test_path_that_leaves_images_is_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    write_parquet(config.split_dir, rows(3, lambda i: {"bytes": None, "path": "../a.png"}))
    with pytest.raises(DataError, match=r"3 bad records: record 1 \(image '\.\./a\.png'\)"):
        open_split(config, "train").load()


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_null_image_and_bad_answers(tmp_path: Path, form: str) -> None:
    config = config_for(tmp_path)
    records = rows(6)
    records[2]["image"] = None
    records[3]["answer"] = None
    records[4]["answer"] = " "
    WRITERS[form](config.split_dir, records)
    with pytest.raises(DataError) as error:
        open_split(config, "train").load()
    for part in ("3 bad records", "record 3: image is missing", "record 4 (image '1.png'): answer is missing",
                 "record 5 (image '2.png'): answer is empty"):  # fmt: skip
        assert part in str(error.value)


def test_numbers_and_absent_values_as_pandas_writes_them(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    records = rows(2)
    for i, r in enumerate(records):
        r.update(answer=i, need_external_knowledge=float("nan"), note=float("nan"))
    write_parquet(config.split_dir, records)
    samples = open_split(config, "train").load()
    assert [(s.answer, s.need_external_knowledge, "note" in s.tags) for s in samples] == [
        ("0", False, False),
        ("1", False, False),
    ]


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2)], ids=str)
def test_a_list_of_accepted_answers(tmp_path: Path, form: str, kind: pa.DataType, monkeypatch: Any) -> None:
    if pa.types.is_fixed_size_list(kind) and form in ("parquet", "shards") and int(pa.__version__.split(".")[0]) < 26:
        pytest.skip("before 26, the last for Python 3.10 included, pyarrow reads no absent lists of a fixed size")
    config = config_for(tmp_path)
    monkeypatch.setitem(TYPES, "answers", kind)
    records = rows(12)
    for i, r in enumerate(records):
        r.update(answer=None if i % 2 else r["answer"], answers=[f"b{i}", f"c{i}"] if i != 2 else None, box=[1, 2])
    WRITERS[form](config.split_dir, records)
    samples = open_split(config, "train").load()
    assert [s.answers for s in samples[:4]] == [("b0", "c0"), ("b1", "c1"), ("a2",), ("b3", "c3")]
    assert [s.answer for s in samples[:4]] == ["a0", "b1", "a2", "b3"]
    assert set(samples[0].tags) == {"year"}


def test_numbers_in_a_list_of_answers_and_what_is_no_answer(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    records = rows(4)
    for r, answers in zip(records, ([1.5, 2.0], [1.0, float("nan")], [], [3.0, None]), strict=True):
        r["answers"] = answers
    write_parquet(config.split_dir, records)
    with pytest.raises(DataError) as error:
        open_split(config, "train").load()
    for part in ("3 bad records", "record 2 (image '0.png'): answers[1] is missing",
                 "record 3 (image '1.png'): answers is empty", "answers[1] is missing"):  # fmt: skip
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("total", "match"), [(4, "train-00003-of-00004.parquet is missing"), (2, "two sets of shards|is missing")]
)
def test_shards_that_do_not_belong_together(tmp_path: Path, total: int, match: str) -> None:
    config = config_for(tmp_path)
    for i in range(3):
        pq.write_table(table(rows(2)), config.split_dir / f"train-{i:05d}-of-{total:05d}.parquet")
    with pytest.raises(DataError, match=match):
        open_split(config, "train")


def test_shards_whose_names_end_in_a_hash(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    for i, part in enumerate((rows(30)[:9], rows(30)[9:])):
        pq.write_table(table(part), config.split_dir / f"train-{i:05d}-of-00002-{'0b21d' * 3}{i}.parquet")
    assert [s.question for s in open_split(config, "train").load()] == [f"q{i}" for i in range(30) if i % 5 != 4]
    pq.write_table(table(rows(3)), config.split_dir / "train-00001-of-00002-ffff.parquet")
    with pytest.raises(DataError, match="two sets of shards; expected 2 files"):
        open_split(config, "train")


def test_shards_and_another_file(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    write_shards(config.split_dir, rows(30))
    write_parquet(config.split_dir, rows(30))
    with pytest.raises(DataError, match=r"train\.parquet and .*train-00000-of-00003\.parquet"):
        open_split(config, "train")


@pytest.mark.parametrize("form", WRITERS)
def test_damaged_file(tmp_path: Path, form: str) -> None:
    config = config_for(tmp_path)
    WRITERS[form](config.split_dir, rows(30))
    for path in config.split_dir.rglob("*"):
        if path.suffix in (".parquet", ".arrow"):
            path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read as") as error:
        open_split(config, "train")
    assert "\n" not in str(error.value)


def test_no_image_column_and_an_unusable_one(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    pq.write_table(pa.table({"photo": ["a"], "answer": ["b"]}), config.split_dir / "train.parquet")
    with pytest.raises(DataError, match="no column 'image'; found the columns photo, answer"):
        open_split(config, "train")
    parquet.parquet_file.cache_clear()
    pq.write_table(pa.table({"image": [1]}), config.split_dir / "train.parquet")
    with pytest.raises(DataError, match="the column 'image' holds int64"):
        open_split(config, "train")


def test_empty_parquet(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    pq.write_table(table(rows(1)).slice(0, 0), config.split_dir / "train.parquet")
    with pytest.raises(DataError, match="no records"):
        open_split(config, "train")


def _read_in_child(samples: bytes, queue: Any) -> None:
    queue.put([s.images[0].read() for s in pickle.loads(samples)])


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_references_are_read_in_other_processes(tmp_path: Path, form: str, method: str) -> None:
    config = config_for(tmp_path)
    WRITERS[form](config.split_dir, rows(30))
    samples = open_split(config, "train").load()
    expected = [s.images[0].read() for s in samples]  # the parent has the file open when it forks
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_read_in_child, args=(pickle.dumps(samples), queue)) for _ in range(2)]
    for child in children:
        child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert found == [expected, expected]


def test_what_datasets_itself_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    config = config_for(tmp_path)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answer": datasets.ClassLabel(names=["no", "yes"]),
            "need_external_knowledge": datasets.Value("bool"),
            "year": datasets.Value("int32"),
        }
    )
    records = [{**r, "answer": i % 2, "need_external_knowledge": False} for i, r in enumerate(rows(12))]
    saved = datasets.Dataset.from_list(records, features=features).select([7, 2, 11, 4])  # with an indices mapping
    datasets.DatasetDict({"train": saved, "validation": saved}).save_to_disk(config.split_dir)
    assert (config.split_dir / "dataset_dict.json").is_file()
    saved.to_parquet(config.split_dir / "test.parquet")
    for split in ("train", "val", "test"):
        samples = open_split(config, split).load()
        assert [s.question for s in samples] == ["q7", "q2", "q11", "q4"]
        assert [s.answer for s in samples] == ["yes", "no", "yes", "no"]
        assert [s.images[0].read() for s in samples] == [png(i) for i in (7, 2, 11, 4)]
        assert [s.images[0].name for s in samples] == ["3.png", "1.png", "5.png", "2.png"]
