"""Drawn paintings: the scene (two large shapes, a row of small things, a background), its facts, and its drawing."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

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
# Direction and length of the brush strokes of a background, as (x, y) in units of SIZE_PX.
_STROKES = {
    "sea": (24, 0),
    "forest": (0, 60),
    "desert": (50, 12),
    "night": (1.5, 1.5),
    "snow": (4, 4),
    "sunset": (90, 0),
}
# Polygons inside a circle of radius 1; y points down.
_OUTLINES: dict[str, tuple[Point, ...]] = {
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


@dataclass(frozen=True, slots=True)
class Scene:
    """What one painting shows, and the facts that only its description contains."""

    background: str
    left_shape: str
    left_colour: str
    right_shape: str
    right_colour: str
    thing: str
    count: int
    row: str  # "top" or "bottom": where the small things are
    facts: dict[str, str]  # author, year, town, museum, patron
    school: str


def random_scene(rng: Random) -> Scene:
    """Choose every attribute at random, all values equally likely; the two shapes differ, and their colours differ."""
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


class _Brush:
    """Draws on a canvas of any size; coordinates are those of an image of SIZE_PX x SIZE_PX pixels."""

    def __init__(self, canvas: ImageDraw.ImageDraw, scale: float) -> None:
        self.canvas = canvas
        self.scale = scale

    def width(self, units: float) -> int:
        """A line width in pixels, at least one."""
        return max(1, round(units * self.scale))

    def outline(self, name: str, colour: Colour, centre: Point, radius: float, width: float) -> None:
        """Fill the polygon `name` and draw its edge."""
        points = [
            ((centre[0] + radius * x) * self.scale, (centre[1] + radius * y) * self.scale) for x, y in _OUTLINES[name]
        ]
        self.canvas.polygon(points, fill=colour, outline=_ink(colour), width=self.width(width))

    def disc(self, fill: Colour | None, edge: Colour, centre: Point, radius: float, width: float) -> None:
        """Draw a disc; a ring if `fill` is None."""
        x, y = centre
        box = [(part * self.scale) for part in (x - radius, y - radius, x + radius, y + radius)]
        self.canvas.ellipse(box, fill=fill, outline=edge, width=self.width(width))

    def line(self, start: Point, end: Point, colour: Colour, width: float) -> None:
        """Draw a straight line."""
        points = [part * self.scale for part in (*start, *end)]
        self.canvas.line(points, fill=colour, width=self.width(width))


def draw(scene: Scene, rng: Random, size_px: int = SIZE_PX) -> Image.Image:
    """Draw the scene as a square RGB image; positions, sizes and shades vary with `rng`."""
    image = Image.new("RGB", (size_px, size_px))
    brush = _Brush(ImageDraw.Draw(image), size_px / SIZE_PX)
    _paint_background(brush, scene.background, rng)
    middle = 110 if scene.row == "top" else 82
    for x, shape, name in ((52, scene.left_shape, scene.left_colour), (140, scene.right_shape, scene.right_colour)):
        radius = rng.uniform(26, 33)
        centre = (x + rng.uniform(-9, 9), middle + rng.uniform(-12, 12))
        _paint_shape(brush, shape, _shade(COLOURS[name], rng, 10), centre, radius)
    colour = _shade(COLOURS[rng.choice(list(COLOURS))], rng, 10)
    spacing = 36
    start = 96 - spacing * (scene.count - 1) / 2 + rng.uniform(-6, 6)
    height = (24 if scene.row == "top" else 168) + rng.uniform(-4, 4)
    for index in range(scene.count):
        centre = (start + spacing * index + rng.uniform(-2, 2), height + rng.uniform(-3, 3))
        _paint_thing(brush, scene.thing, colour, centre, rng.uniform(12, 14))
    return image


def _shade(colour: Colour, rng: Random, spread: int) -> Colour:
    red, green, blue = (min(255, max(0, part + rng.randint(-spread, spread))) for part in colour)
    return red, green, blue


def _ink(colour: Colour) -> Colour:
    """The colour of an outline that can be distinguished from `colour`."""
    return (20, 20, 20) if sum(colour) > 240 else (235, 235, 235)


def _paint_background(brush: _Brush, kind: str, rng: Random) -> None:
    base = _shade(BACKGROUNDS[kind], rng, 12)
    brush.canvas.rectangle((0, 0, *brush.canvas.im.size), fill=base)
    dx, dy = _STROKES[kind]
    for _ in range(40):
        x, y = rng.uniform(0, SIZE_PX), rng.uniform(0, SIZE_PX)
        stroke = (225, 225, 200) if kind == "night" else _shade(base, rng, 28)
        brush.line((x, y), (x + dx, y + dy), stroke, 2 if kind in ("night", "sea") else 4)


def _paint_shape(brush: _Brush, shape: str, colour: Colour, centre: Point, radius: float) -> None:
    if shape == "circle":
        brush.disc(colour, _ink(colour), centre, radius * 0.95, 2)
    elif shape == "ring":
        brush.disc(None, _ink(colour), centre, radius, radius * 0.48)
        brush.disc(None, colour, centre, radius - 2, radius * 0.48 - 4)
    else:
        brush.outline(shape, colour, centre, radius, 2)


def _paint_thing(brush: _Brush, thing: str, colour: Colour, centre: Point, radius: float) -> None:
    x, y = centre
    ink = _ink(colour)
    if thing == "flowers":
        for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)):
            brush.disc(colour, ink, (x + dx * radius, y + dy * radius), radius * 0.45, 1)
        brush.disc(ink, ink, centre, radius * 0.3, 1)
        return
    if thing == "trees":
        brush.line((x, y), (x, y + radius), ink, 3)
    for name in {"birds": ("bird",), "fish": ("fish",), "boats": ("hull", "sail"), "trees": ("crown",)}[thing]:
        brush.outline(name, colour, centre, radius, 1)
