"""The texts that vizsage-tiny is pre-trained on: captions, remarks on a part of an image, and copying.

None of them is a question or an answer of the demo data set. All replies are sentences, so the base model answers in
sentences, and the demo's short answers, which exact match needs, are learned in fine-tuning. The weights in the package
and the tokenizer depend on every text here: do not edit any.
"""

from __future__ import annotations

from random import Random

from vizsage.demo import drawn_data as demo
from vizsage.demo.paintings import COUNTS, Scene

SINGULAR = {"birds": "bird", "fish": "fish", "flowers": "flower", "boats": "boat", "trees": "tree"}
INSTRUCTIONS = (
    "",
    "Describe the picture.",
    "Say in one sentence what is painted.",
    "Look at the picture and write a sentence about the part that is named.",
    "Write about the painting.",
    "You see a picture. Write a note.",
    "Write the words that are wanted, in a sentence.",
)
DESCRIPTION_PREFIXES = ("", "Description: ", "About the picture: ", "Text: ")
REQUEST_PREFIXES = ("", "", "Question: ", "Wanted: ", "tell about ", "a sentence about ", "write about ")
JOINTS = ("", " ", "\n", "\n\n")
# Words that fine-tuning may need and captions lack. The model learns to repeat them in random order, so that none of
# their tokens is untrained.
LOOSE_WORDS = tuple(
    """answer the question about this picture in a few words what which who whom whose where when how many much is are
    was were be can does do did has have on of for by with to from at it its that colour shape background behind shapes
    painted painter painting artist artwork made ordered paid date year town city museum owns hang hangs today now seen
    see there stand stands in row small things left right side top bottom yes no name title short please describe only
    reply context knowledge image look first second between above below next same other not and or , . ? : ! - ( ) " '
    """.split()
)
SYLLABLES = tuple(
    """al an ar bel ber bo bra ca cé cor da del dor dra el em en er es fa fé fer fi gar ger go gun ha hel her ho in is
    iz jo jör ka kel ko la lau lé len li lo lu ma mar mé mi mo mon na nå nel ni no nor nu ño ó ol or os ot pa per pi po
    qui ra ré ri ro rø rü sa sal sé si so sø sta stra su tal te ti to tor tro tu ul um ur va vel ver vi vo vou wal wer
    wil za zé zi zo zü ä ö ü é è ç ñ ø å í á ú ô ê ï ë ß æ""".split()
)
FACT_REQUESTS = {
    "author": ("the painter", "the artist", "the hand that made it"),
    "year": ("the year", "the date"),
    "town": ("the workshop", "the town of the painter"),
    "museum": ("the museum", "the place where it is kept"),
    "patron": ("the one who paid", "the commission"),
}
FACT_REMARKS = {
    "author": ("{author} is the painter", "{author} did it", "The painter is {author}", "By {author}, it is said"),
    "year": ("{year} is the year", "{year}, says the text", "The year is {year}"),
    "town": ("{town} is the town", "{town} had the workshop", "They made it in {town}"),
    "museum": ("{museum} keeps it", "{museum} has the museum", "The museum stands in {museum}"),
    "patron": ("{patron} paid", "{patron} wanted to have it", "The one who paid is {patron}"),
}


def random_name(rng: Random) -> str:
    """A made-up name, accented letters included."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4))).capitalize()


def random_facts(scene: Scene, rng: Random) -> dict[str, str]:
    """Facts for a description; two in three are made up, so that the model has to copy them and cannot learn them."""
    made_up = {
        "author": f"{random_name(rng)} {random_name(rng)}",
        "year": str(rng.randint(1000, 2099)),
        "town": random_name(rng),
        "museum": random_name(rng),
        "patron": f"{rng.choice(('a', 'an', 'the'))} {random_name(rng).lower()}",
    }
    return {fact: rng.choice((value, made_up[fact], made_up[fact])) for fact, value in scene.facts.items()}


def caption(scene: Scene, rng: Random) -> str:
    """All that can be seen, in random order and wording."""
    parts = [
        _shape_phrase(scene.left_shape, scene.left_colour, "left", rng),
        _shape_phrase(scene.right_shape, scene.right_colour, "right", rng),
        _row_phrase(scene, rng),
        _background_phrase(scene, rng),
    ]
    if rng.random() < 0.7:
        rng.shuffle(parts)
    joint = rng.choice((", ", "; ", ". "))
    return joint.join(parts)


def visual_exchange(scene: Scene, rng: Random) -> tuple[str, str]:
    """A request that names a part of the image, and a remark on that part."""
    sides = {"left": (scene.left_shape, scene.left_colour), "right": (scene.right_shape, scene.right_colour)}
    side = rng.choice(("left", "right"))
    shape, colour = sides[side]
    topic = rng.choice(("whole", "shape", "side", "colour", "row", "row", "thing", "background"))
    if topic == "whole":
        return rng.choice(("the whole picture", "everything", "")), caption(scene, rng)
    if topic == "shape":
        remarks = (f"{colour} on the {side}", f"{colour} is its colour", _shape_phrase(shape, colour, side, rng))
        return f"the {shape}", rng.choice(remarks)
    if topic == "colour":
        request = rng.choice((f"the {colour} shape", f"the {colour} one"))
        remarks = (f"{shape} on the {side}", f"the {shape} is {colour}", _shape_phrase(shape, colour, side, rng))
        return request, rng.choice(remarks)
    if topic == "side":
        request = rng.choice((f"the {side} side", f"the shape on the {side}", side))
        remarks = (f"{shape}, {colour}", f"{shape} in {colour}", _shape_phrase(shape, colour, side, rng))
        return request, rng.choice(remarks)
    if topic == "row":
        request = rng.choice(("the row", "the number", f"the {scene.thing}", "the small things"))
        return request, _row_phrase(scene, rng)
    if topic == "thing":
        request = rng.choice(("the things in the row", "the kind of small things"))
        remarks = (f"{scene.thing} at the {scene.row}", f"{scene.thing} in a row", f"they are {scene.thing}")
        return request, rng.choice(remarks)
    return rng.choice(("the background", "what lies behind")), _background_phrase(scene, rng)


def fact_exchange(facts: dict[str, str], told: list[str], rng: Random) -> tuple[str, str]:
    """A request for a fact of the description and a remark that copies it."""
    fact = rng.choice(told)
    return rng.choice(FACT_REQUESTS[fact]), rng.choice(FACT_REMARKS[fact]).format(**facts)


def copy_exchange(rng: Random) -> tuple[str, str]:
    """Loose words in a random order, to be repeated."""
    words = [rng.choice(LOOSE_WORDS) if rng.random() < 0.8 else random_name(rng) for _ in range(rng.randint(3, 9))]
    text = " ".join(words)
    return f"{rng.choice(('repeat', 'copy', 'say again'))}: {text}", text


def exchange(scene: Scene, rng: Random, *, with_description: bool) -> tuple[list[dict[str, str]], str]:
    """One training example: the parts of the user's turn and the reply."""
    description = None
    if with_description:
        facts = random_facts(scene, rng)
        description, told = demo.describe(facts, rng)
        request, remark = fact_exchange(facts, told, rng) if rng.random() < 0.9 else visual_exchange(scene, rng)
        reply = f"{remark}."
    elif rng.random() < 0.12:
        request, reply = copy_exchange(rng)
    else:
        request, remark = visual_exchange(scene, rng)
        reply = f"{remark}."
    joint = rng.choice(JOINTS)
    parts = [{"type": "text", "text": rng.choice(INSTRUCTIONS) + joint}, {"type": "image"}]
    if description is not None:
        parts.append({"type": "text", "text": rng.choice(JOINTS) + rng.choice(DESCRIPTION_PREFIXES) + description})
    parts.append({"type": "text", "text": (joint or " ") + rng.choice(REQUEST_PREFIXES) + request})
    return parts, reply


def _shape_phrase(shape: str, colour: str, side: str, rng: Random) -> str:
    return rng.choice(
        (
            f"a {colour} {shape} on the {side}",
            f"{colour} {shape} on the {side} side",
            f"on the {side} there is a {colour} {shape}",
            f"the {shape} on the {side} is {colour}",
            f"{side}, a {shape} painted in {colour}",
        )
    )


def _row_phrase(scene: Scene, rng: Random) -> str:
    count = COUNTS[scene.count - 1]
    thing = SINGULAR[scene.thing] if scene.count == 1 else scene.thing
    return rng.choice(
        (
            f"{count} {thing} at the {scene.row}",
            f"{count} {thing} in a row",
            f"at the {scene.row} {count} {thing}",
            f"{scene.thing}, {count} in all, at the {scene.row}",
            f"there is a row of {count} {thing}",
        )
    )


def _background_phrase(scene: Scene, rng: Random) -> str:
    return rng.choice(
        (
            f"{scene.background} in the background",
            f"{scene.background} behind it all",
            f"behind lies the {scene.background}",
            f"all painted before the {scene.background}",
        )
    )
