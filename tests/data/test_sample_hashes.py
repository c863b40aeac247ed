"""Hashes of samples: what is hashed, what counts as the same, and how much two splits have in common."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsage.contract.hashes_file import ImageHashes, SampleHashes, read_hashes
from vizsage.data.identity import bytes_hash, hash_of_sha256, name_hash, named_sample_hash, question_hash
from vizsage.data.images import EmbeddedImage
from vizsage.data.sample import ImageRef, Sample
from vizsage.data.sample_hashes import HashCollector, overlap, unpacked, write_hashes
from vizsage.errors import DataError


class Unnamed(EmbeddedImage):
    """An image without a name in its data set, and one that cannot be read where it has no bytes."""

    named = False


def sample(image: str, question: str, *, data: bytes | None = None, choices: tuple[str, ...] = ()) -> Sample:
    content = image.encode() if data is None else data
    return Sample(f"{image}-{question}", (EmbeddedImage(image, content),), question, "yes", choices=choices)


def read(image: ImageRef) -> bytes | None:
    try:
        return bytes_hash(image.read() or unreadable())
    except DataError:
        return None


def unreadable() -> bytes:
    raise DataError("it is missing")


def hashes(*samples: Sample, by_content: bool = True, by_name: bool = True) -> SampleHashes:
    collector = HashCollector(read, by_content=by_content, by_name=by_name)
    assert list(collector.watch(samples)) == list(samples)
    return collector.hashes()


def test_anyone_can_compute_the_hashes_as_the_page_describes_them(tmp_path: Path) -> None:
    def first(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()[:8]

    asked = Sample(
        "1", (EmbeddedImage("a.png", b"A"), EmbeddedImage("b.png", b"B")), " What\n IS it", "x", choices=("Yes", "No")
    )
    facts = write_hashes(tmp_path, hashes(asked))
    assert (facts.images_by, facts.images, facts.questions, facts.samples) == ("content", 2, 1, 1)
    found = read_hashes(tmp_path, facts)
    question, choices = first(b"what is it"), first(b"yes") + first(b"no")
    for images, kind in (((b"A", b"B"), found.by_content), ((b"a.png", b"b.png"), found.by_name)):
        assert kind is not None
        assert {one.tobytes() for one in unpacked(kind.images)} == set(map(first, images))
        whole = first(b"".join(map(first, images)) + question + choices)
        assert unpacked(kind.samples).tobytes() == whole
    assert unpacked(found.questions).tobytes() == question
    assert json.loads((tmp_path / "sample_hashes.json").read_text())["function"] == "sha256-8"


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_case_white_space_and_unicode_form_do_not_make_another_question(text: str) -> None:
    assert question_hash(f" {text}\t") == question_hash(text)
    assert question_hash(unicodedata.normalize("NFD", text)) == question_hash(text)
    assert question_hash("A  b") == question_hash("a B") != question_hash("ab")


def test_a_sample_is_its_question_its_images_in_order_and_its_choices() -> None:
    one = sample("a", "what")
    assert named_sample_hash(one) == named_sample_hash(sample("a", "What "))
    others = [sample("b", "what"), sample("a", "who"), sample("a", "what", choices=("x", "y"))]
    others += [replace(one, images=images) for images in ((*one.images, *others[0].images),)]
    others += [replace(one, images=tuple(reversed(others[-1].images)))]
    others += [sample("a", "what", choices=("y", "x"))]
    assert len({named_sample_hash(each) for each in (one, *others)}) == 1 + len(others)


def test_a_leak_is_found_by_bytes_under_any_name_and_by_name_where_nothing_else_is_known() -> None:
    trained = [sample("1", "what"), sample("1", "who"), sample("2", "where")]
    renamed = [replace(trained[0], images=(EmbeddedImage("other", b"1"),)), sample("3", "where", data=b"new")]
    found = overlap(hashes(*renamed, renamed[0]), hashes(*trained, by_name=False), "run")
    assert found.model_dump() == {
        "train_run": "run",
        "images_by": "content",
        "samples": 2,
        "samples_in_training": 1,
        "images": 2,
        "images_in_training": 1,
        "questions": 2,
        "questions_in_training": 2,
    }
    by_name = overlap(hashes(sample("1", "what", data=b"new")), hashes(*trained, by_content=False), "run")
    assert (by_name.images_by, by_name.samples_in_training, by_name.images_in_training) == ("name", 1, 1)
    with pytest.raises(ValueError, match="no hashes of images by content"):
        overlap(hashes(*trained, by_content=False), hashes(*trained), "run")


def test_an_image_without_a_name_is_its_bytes_and_one_that_cannot_be_read_is_none() -> None:
    image = Unnamed("train-0", b"1")
    found = hashes(replace(sample("x", "what"), images=(image,)), sample("gone", "who", data=b""))
    assert found.by_name is not None
    assert found.by_content is not None
    assert {one.tobytes() for one in unpacked(found.by_name.images)} == {bytes_hash(b"1"), name_hash("gone")}
    assert unpacked(found.by_content.images).tobytes() == bytes_hash(b"1")
    assert (len(unpacked(found.by_content.samples)), len(unpacked(found.by_name.samples))) == (1, 2)
    assert hash_of_sha256(hashlib.sha256(b"1").hexdigest()) == bytes_hash(b"1")


def test_no_samples_have_nothing_in_common() -> None:
    found = overlap(hashes(), hashes(sample("1", "what")), "run")
    assert (found.samples, found.images, found.questions, found.samples_in_training) == (0, 0, 0, 0)


def test_a_file_that_is_not_the_recorded_one_or_damaged_is_one_line(tmp_path: Path) -> None:
    facts = write_hashes(tmp_path, hashes(sample("1", "what")))
    write_hashes(tmp_path, hashes(sample("2", "what")))
    with pytest.raises(ValueError, match="its SHA-256 is not the one that was recorded"):
        read_hashes(tmp_path, facts)
    for text, told in (("?", "not base64"), ("AAAA", "expected 8 bytes per hash, found 3")):
        with pytest.raises(ValueError, match=told):
            ImageHashes(images=text, samples="")
