"""The demo data set: drawn paintings, questions on them and a table of descriptions, in the layout of AQUA.

Everything is a function of the seed. A painting shows two large shapes, a row of small things and a background. Its
description tells painter, year and some of town, museum and patron, and nothing that can be seen.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from vizsage.demo.paintings import COUNTS, Scene, draw, random_scene
from vizsage.errors import DataError
from vizsage.files import write_bytes, write_text

DATASET = "Demo"
TABLE = "semart.csv"
HEADER = ("IMAGE_FILE", "DESCRIPTION", "AUTHOR", "TITLE", "TECHNIQUE", "DATE", "TYPE", "SCHOOL", "TIMEFRAME")
SPLIT_IMAGES = {"train": 300, "val": 40, "test": 56}

FACT_SENTENCES = {
    "author": (
        "{author} painted this picture.",
        "The picture is a work of {author}.",
        "The painter {author} signed it.",
        "It comes from the hand of {author}.",
    ),
    "year": (
        "It was painted in {year}.",
        "The year {year} stands on the frame.",
        "It was finished in {year}.",
        "It dates from {year}.",
    ),
    "town": (
        "It was made in {town}.",
        "The workshop stood in {town}.",
        "It came into being in {town}.",
    ),
    "museum": (
        "Today it hangs in the museum of {museum}.",
        "The museum of {museum} owns it now.",
        "Visitors see it today in {museum}.",
    ),
    "patron": (
        "It was ordered by {patron}.",
        "It was a commission of {patron}.",
        "{patron} paid for it.",
    ),
}
KNOWLEDGE_QUESTIONS = {
    "author": ("who painted this picture", "who is the painter", "which artist made this painting"),
    "year": ("when was it painted", "in which year was this picture painted", "what is the date of the painting"),
    "town": ("where was it painted", "in which town was this picture made"),
    "museum": ("where does it hang today", "which museum owns the painting now"),
    "patron": ("for whom was it painted", "who ordered the painting"),
}


def describe(facts: dict[str, str], rng: Random) -> tuple[str, list[str]]:
    """A description with facts in random order and wording, and which ones: author, year and two or three others."""
    told = ["author", "year", *rng.sample(["town", "museum", "patron"], rng.randint(2, 3))]
    rng.shuffle(told)
    sentences = [rng.choice(FACT_SENTENCES[fact]).format(**facts) for fact in told]
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    return text, [fact for fact in FACT_SENTENCES if fact in told]


def visual_questions(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    """Two or three questions about what can be seen, worded as in AQUA (no question mark), with their answers."""
    sides = [("left", scene.left_shape, scene.left_colour), ("right", scene.right_shape, scene.right_colour)]
    rng.shuffle(sides)
    (_, shape, colour), (side, shape_there, _) = sides
    pairs = [
        (rng.choice((f"what colour is the {shape}", f"what is the colour of the {shape}")), colour),
        (rng.choice((f"what is on the {side}", f"which shape is painted on the {side}")), shape_there),
        (
            rng.choice((f"how many {scene.thing} are there", f"how many {scene.thing} can be seen")),
            COUNTS[scene.count - 1],
        ),
        (rng.choice(("what is in the background", "what is behind the shapes")), scene.background),
        (rng.choice(("what stand in a row", "what small things are painted")), scene.thing),
    ]
    return rng.sample(pairs, rng.randint(2, 3))


def knowledge_questions(facts: dict[str, str], told: list[str], rng: Random) -> list[tuple[str, str]]:
    """Two questions that can be answered from the description only, with their answers."""
    return [(rng.choice(KNOWLEDGE_QUESTIONS[fact]), facts[fact]) for fact in rng.sample(told, 2)]


def write_demo(folder: Path, *, seed: int = 0) -> dict[str, dict[str, int]]:
    """Write the demo data set below `folder`: Demo/{train,val,test}.json, Images/ and the table semart.csv.

    The JSON files and the table are written last: a folder without them is recognised as unfinished.

    Returns:
        For each split its number of images, samples and samples that need external knowledge.

    Raises:
        DataError: `folder` cannot be written.
    """
    folder = Path(folder)
    rows: list[tuple[str, ...]] = []
    splits: dict[str, list[dict[str, Any]]] = {}
    counts: dict[str, dict[str, int]] = {}
    number = 0
    try:
        for split, images in SPLIT_IMAGES.items():
            visual: list[dict[str, Any]] = []
            knowledge: list[dict[str, Any]] = []
            for _ in range(images):
                number += 1
                rng = Random(f"demo-{seed}-{number}")
                name = f"{number:05d}-painting.jpg"
                scene = _dated_to_the_decade(random_scene(rng))
                write_bytes(folder / "Images" / name, _jpeg(draw(scene, rng)))
                visual += _records(name, visual_questions(scene, rng), need_external_knowledge=False)
                description, told = describe(scene.facts, rng)
                knowledge += _records(name, knowledge_questions(scene.facts, told, rng), need_external_knowledge=True)
                rows.append(_table_row(name, scene, description, rng))
            splits[split] = visual + knowledge  # the order of AQUA's own files
            counts[split] = {"images": images, "samples": len(splits[split]), "with_external_knowledge": len(knowledge)}
        table = "".join("\t".join(row) + "\n" for row in (HEADER, *rows))
        write_bytes(folder / TABLE, table.encode("latin-1"))
        for split, records in splits.items():
            write_text(folder / DATASET / f"{split}.json", json.dumps(records, ensure_ascii=False) + "\n")
    except OSError as error:
        raise DataError(f"{folder}: the demo data set cannot be written there: {error}") from None
    return counts


def _dated_to_the_decade(scene: Scene) -> Scene:
    """The scene with a year that ends in 0: vizsage-tiny does not copy four arbitrary digits reliably."""
    return replace(scene, facts={**scene.facts, "year": scene.facts["year"][:3] + "0"})


def _records(name: str, pairs: Iterable[tuple[str, str]], *, need_external_knowledge: bool) -> list[dict[str, Any]]:
    return [
        {"image": name, "question": question, "answer": answer, "need_external_knowledge": need_external_knowledge}
        for question, answer in pairs
    ]


def _table_row(name: str, scene: Scene, description: str, rng: Random) -> tuple[str, ...]:
    """One line of the SemArt table, fields in the order of HEADER."""
    first, last = scene.facts["author"].split(" ", 1)
    half_century = (int(scene.facts["year"]) - 1) // 50 * 50 + 1
    return (
        name,
        description,
        f"{last.upper()}, {first}",
        f"{scene.left_shape.capitalize()} and {scene.right_shape.capitalize()}",
        f"{rng.choice(('Oil on canvas', 'Oil on wood', 'Fresco', 'Tempera on panel'))}, {rng.randint(30, 220)} cm",
        scene.facts["year"],
        rng.choice(("landscape", "still-life", "genre", "other")),
        scene.school,
        f"{half_century}-{half_century + 49}",
    )


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
