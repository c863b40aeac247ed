"""The demo data set: drawn paintings, questions on them and a table of descriptions, in the layout of AQUA.

Everything is a function of the seed. A painting shows two large shapes, a row of small things and a background; its
description names painter, year, town, owner and patron, and nothing that can be seen.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from vizsage.errors import DataError
from vizsage.files import write_bytes, write_text

DATASET = "Demo"
TABLE = "semart.csv"
HEADER = ("IMAGE_FILE", "DESCRIPTION", "AUTHOR", "TITLE", "TECHNIQUE", "DATE", "TYPE", "SCHOOL", "TIMEFRAME")
SPLIT_IMAGES = {"train": 300, "val": 40, "test": 56}
SIZE_PX = 192

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "moon", "ring")
COLOURS = {
    "red": (205, 30, 35),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 40),
    "green": (30, 150, 60),
    "blue": (35, 70, 205),
    "purple": (130, 40, 160),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
BACKGROUNDS = {
    "sea": (70, 150, 190),
    "forest": (60, 95, 60),
    "desert": (215, 180, 115),
    "night": (25, 30, 75),
    "snow": (215, 225, 235),
    "sunset": (240, 150, 120),
}
THINGS = ("birds", "fish", "flowers", "boats", "trees")
COUNTS = ("one", "two", "three", "four", "five")
SCHOOLS = {
    "French": (("François", "Hélène", "René", "Louis"), ("Lefèvre", "Dupré", "Moreau", "Besançon")),
    "German": (("Jürgen", "Käthe", "Otto", "Bärbel"), ("Müller", "Schröder", "Vogel", "Grünwald")),
    "Spanish": (("José", "Inés", "Tomás", "Pilar"), ("Núñez", "Ibáñez", "Romero", "Zurita")),
    "Italian": (("Niccolò", "Lucia", "Pietro", "Bianca"), ("Bellori", "Vanni", "Corsi", "Salvi")),
    "Dutch": (("Zoë", "Willem", "Daniël", "Saskia"), ("Verhoef", "Brinck", "Kuyper", "Hals")),
    "Danish": (("Søren", "Maren", "Jørgen", "Else"), ("Ærø", "Holm", "Skov", "Kjær")),
}
TOWNS = (
    "Málaga", "Zürich", "Orléans", "Köln", "Liège", "Padua", "Delft", "Bruges", "Århus", "Lübeck", "Verona", "Toledo",
    "Nîmes", "Genoa", "Ghent", "Segóvia", "Porto", "Vienna", "Utrecht", "Siena",
)  # fmt: skip
PATRONS = ("a bishop", "a duchess", "a banker", "a doctor", "an abbess", "a captain", "a baker", "a queen")
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


@dataclass(frozen=True, slots=True)
class Scene:
    """What one painting shows, and the facts that only its description tells."""

    background: str
    left_shape: str
    left_colour: str
    right_shape: str
    right_colour: str
    thing: str
    count: int
    row: str
    facts: dict[str, str]
    school: str


def random_scene(rng: Random) -> Scene:
    """Draw every attribute of a scene at random, each value as likely as the others."""
    left_shape, right_shape = rng.sample(SHAPES, 2)
    left_colour, right_colour = rng.sample(list(COLOURS), 2)
    school = rng.choice(list(SCHOOLS))
    first, last = SCHOOLS[school]
    town, museum = rng.sample(TOWNS, 2)
    facts = {
        "author": f"{rng.choice(first)} {rng.choice(last)}",
        "year": str(rng.randint(1450, 1899)),
        "town": town,
        "museum": museum,
        "patron": rng.choice(PATRONS),
    }
    return Scene(
        background=rng.choice(list(BACKGROUNDS)),
        left_shape=left_shape,
        left_colour=left_colour,
        right_shape=right_shape,
        right_colour=right_colour,
        thing=rng.choice(THINGS),
        count=rng.randint(1, len(COUNTS)),
        row=rng.choice(("top", "bottom")),
        facts=facts,
        school=school,
    )


def describe(facts: dict[str, str], rng: Random) -> str:
    """A description in a random order and wording: painter and year always, then two or three of the other facts."""
    chosen = ["author", "year", *rng.sample(["town", "museum", "patron"], rng.randint(2, 3))]
    rng.shuffle(chosen)
    sentences = [rng.choice(FACT_SENTENCES[fact]).format(**facts) for fact in chosen]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def told_facts(facts: dict[str, str], description: str) -> list[str]:
    """The facts whose value stands in `description`, in the order of FACT_SENTENCES."""
    return [fact for fact in FACT_SENTENCES if facts[fact].lower() in description.lower()]


def questions(scene: Scene, description: str, rng: Random) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Two or three visual and two knowledge questions with their answers, worded as AQUA does (no question mark)."""
    side = rng.choice(("left", "right"))
    shape, colour = (
        (scene.left_shape, scene.left_colour) if side == "left" else (scene.right_shape, scene.right_colour)
    )
    other = "right" if side == "left" else "left"
    other_shape = scene.right_shape if side == "left" else scene.left_shape
    visual = [
        (rng.choice((f"what colour is the {shape}", f"what is the colour of the {shape}")), colour),
        (rng.choice((f"what is on the {other}", f"which shape is painted on the {other}")), other_shape),
        (
            rng.choice((f"how many {scene.thing} are there", f"how many {scene.thing} can be seen")),
            COUNTS[scene.count - 1],
        ),
        (rng.choice(("what is in the background", "what is behind the shapes")), scene.background),
        (rng.choice(("what stand in a row", "what small things are painted")), scene.thing),
    ]
    knowledge = [
        (rng.choice(KNOWLEDGE_QUESTIONS[fact]), scene.facts[fact]) for fact in told_facts(scene.facts, description)
    ]
    return rng.sample(visual, rng.randint(2, 3)), rng.sample(knowledge, 2)


def write_demo(folder: Path, *, seed: int = 0) -> dict[str, dict[str, int]]:
    """Write the demo data set below `folder`: Demo/{train,val,test}.json, Images/ and the table semart.csv.

    The JSON files and the table come last, so that a folder without them is recognised as unfinished.

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
                scene = random_scene(rng)
                description = describe(scene.facts, rng)
                write_bytes(folder / "Images" / name, _jpeg(draw(scene, rng)))
                seen, told = questions(scene, description, rng)
                visual += _records(name, seen, need_external_knowledge=False)
                knowledge += _records(name, told, need_external_knowledge=True)
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


def _records(name: str, pairs: Iterable[tuple[str, str]], *, need_external_knowledge: bool) -> list[dict[str, Any]]:
    return [
        {"image": name, "question": question, "answer": answer, "need_external_knowledge": need_external_knowledge}
        for question, answer in pairs
    ]


def _table_row(name: str, scene: Scene, description: str, rng: Random) -> tuple[str, ...]:
    """One line of the SemArt table, fields in the order of HEADER."""
    first, last = scene.facts["author"].split(" ", 1)
    start = (int(scene.facts["year"]) - 1) // 50 * 50 + 1
    return (
        name,
        description,
        f"{last.upper()}, {first}",
        f"{scene.left_shape.capitalize()} and {scene.right_shape.capitalize()}",
        f"{rng.choice(('Oil on canvas', 'Oil on wood', 'Fresco', 'Tempera on panel'))}, {rng.randint(30, 220)} cm",
        scene.facts["year"],
        rng.choice(("landscape", "still-life", "genre", "other")),
        scene.school,
        f"{start}-{start + 49}",
    )


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw(scene: Scene, rng: Random, size_px: int = SIZE_PX) -> Image.Image:
    """Paint the scene as a square RGB picture; places, sizes and shades vary with `rng`."""
    picture = Image.new("RGB", (size_px, size_px))
    canvas = ImageDraw.Draw(picture)
    unit = size_px / 192
    _paint_background(canvas, scene.background, rng, size_px)
    down = 14 if scene.row == "top" else -14
    for x, shape, colour in ((52, scene.left_shape, scene.left_colour), (140, scene.right_shape, scene.right_colour)):
        radius = rng.uniform(26, 33)
        centre = (x + rng.uniform(-9, 9), 96 + down + rng.uniform(-12, 12))
        _paint_shape(canvas, shape, _shade(COLOURS[colour], rng, 10), centre, radius, unit)
    colour = _shade(COLOURS[rng.choice(list(COLOURS))], rng, 10)
    spacing = 36
    start = 96 - spacing * (scene.count - 1) / 2 + rng.uniform(-6, 6)
    height = (24 if scene.row == "top" else 168) + rng.uniform(-4, 4)
    for index in range(scene.count):
        centre = (start + spacing * index + rng.uniform(-2, 2), height + rng.uniform(-3, 3))
        _paint_thing(canvas, scene.thing, colour, centre, rng.uniform(12, 14), unit)
    return picture


def _shade(colour: tuple[int, int, int], rng: Random, spread: int) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, part + rng.randint(-spread, spread))) for part in colour)
    return red, green, blue


def _ink(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """The outline that stands out from `colour`."""
    return (20, 20, 20) if sum(colour) > 240 else (235, 235, 235)


def _paint_background(canvas: ImageDraw.ImageDraw, kind: str, rng: Random, size_px: int) -> None:
    base = _shade(BACKGROUNDS[kind], rng, 12)
    canvas.rectangle((0, 0, size_px, size_px), fill=base)
    for _ in range(40):  # brush strokes, each kind with its own direction and length
        x, y = rng.uniform(0, size_px), rng.uniform(0, size_px)
        dx, dy = {
            "sea": (24, 0), "forest": (0, 60), "desert": (50, 12), "night": (1.5, 1.5), "snow": (4, 4), "sunset": (90, 0),
        }[kind]  # fmt: skip
        stroke = (225, 225, 200) if kind == "night" else _shade(base, rng, 28)
        width = 2 if kind in ("night", "sea") else 4
        scale = size_px / 192
        canvas.line((x, y, x + dx * scale, y + dy * scale), fill=stroke, width=max(1, round(width * scale)))


_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "triangle": ((0, -1), (0.95, 0.8), (-0.95, 0.8)),
    "star": (
        (0, -1), (0.25, -0.32), (0.97, -0.31), (0.4, 0.12), (0.6, 0.82), (0, 0.4), (-0.6, 0.82), (-0.4, 0.12),
        (-0.97, -0.31), (-0.25, -0.32),
    ),
    "cross": (
        (-0.32, -1), (0.32, -1), (0.32, -0.32), (1, -0.32), (1, 0.32), (0.32, 0.32), (0.32, 1), (-0.32, 1),
        (-0.32, 0.32), (-1, 0.32), (-1, -0.32), (-0.32, -0.32),
    ),
    "heart": (
        (0, 0.95), (-0.95, -0.1), (-0.95, -0.55), (-0.6, -0.85), (-0.2, -0.75), (0, -0.45), (0.2, -0.75), (0.6, -0.85),
        (0.95, -0.55), (0.95, -0.1),
    ),
    "moon": (
        (0.35, -0.95), (-0.3, -0.85), (-0.75, -0.4), (-0.85, 0.1), (-0.6, 0.65), (-0.1, 0.95), (0.5, 0.85),
        (0.05, 0.5), (-0.15, 0), (-0.05, -0.5),
    ),
    "bird": ((-1, -0.5), (-0.3, -0.35), (0, 0.15), (0.3, -0.35), (1, -0.5), (0.35, 0.1), (0, 0.6), (-0.35, 0.1)),
    "fish": ((-1, 0), (-0.4, -0.5), (0.25, -0.3), (0.45, 0), (1, -0.5), (1, 0.5), (0.45, 0), (0.25, 0.3), (-0.4, 0.5)),
    "hull": ((-1, 0.3), (1, 0.3), (0.6, 0.9), (-0.6, 0.9)),
    "sail": ((0, -1), (0.7, 0.15), (0, 0.15)),
    "crown": ((0, -1), (0.75, 0.4), (-0.75, 0.4)),
}  # fmt: skip


def _paint_outline(
    canvas: ImageDraw.ImageDraw,
    name: str,
    colour: tuple[int, int, int],
    centre: tuple[float, float],
    radius: float,
    unit: float,
    width: float = 2,
) -> None:
    points = [((centre[0] + radius * x) * unit, (centre[1] + radius * y) * unit) for x, y in _OUTLINES[name]]
    canvas.polygon(points, fill=colour, outline=_ink(colour), width=max(1, round(width * unit)))


def _paint_disc(
    canvas: ImageDraw.ImageDraw,
    colour: tuple[int, int, int] | None,
    ink: tuple[int, int, int],
    centre: tuple[float, float],
    radius: float,
    unit: float,
    width: float = 2,
) -> None:
    x, y = centre
    box = ((x - radius) * unit, (y - radius) * unit, (x + radius) * unit, (y + radius) * unit)
    canvas.ellipse(box, fill=colour, outline=ink, width=max(1, round(width * unit)))


def _paint_shape(
    canvas: ImageDraw.ImageDraw,
    shape: str,
    colour: tuple[int, int, int],
    centre: tuple[float, float],
    radius: float,
    unit: float,
) -> None:
    if shape == "circle":
        _paint_disc(canvas, colour, _ink(colour), centre, radius * 0.95, unit)
    elif shape == "ring":
        _paint_disc(canvas, None, _ink(colour), centre, radius, unit, radius * 0.48)
        _paint_disc(canvas, None, colour, centre, radius - 2, unit, radius * 0.48 - 4)
    else:
        _paint_outline(canvas, shape, colour, centre, radius, unit)


def _paint_thing(
    canvas: ImageDraw.ImageDraw,
    thing: str,
    colour: tuple[int, int, int],
    centre: tuple[float, float],
    radius: float,
    unit: float,
) -> None:
    x, y = centre
    if thing == "birds":
        _paint_outline(canvas, "bird", colour, centre, radius, unit, 1)
    elif thing == "fish":
        _paint_outline(canvas, "fish", colour, centre, radius, unit, 1)
    elif thing == "flowers":
        for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)):
            _paint_disc(canvas, colour, _ink(colour), (x + dx * radius, y + dy * radius), radius * 0.45, unit, 1)
        _paint_disc(canvas, _ink(colour), _ink(colour), centre, radius * 0.3, unit, 1)
    elif thing == "boats":
        _paint_outline(canvas, "hull", colour, centre, radius, unit, 1)
        _paint_outline(canvas, "sail", colour, centre, radius, unit, 1)
    else:
        canvas.line((x * unit, y * unit, x * unit, (y + radius) * unit), fill=_ink(colour), width=max(1, round(3 * unit)))
        _paint_outline(canvas, "crown", colour, centre, radius, unit, 1)
