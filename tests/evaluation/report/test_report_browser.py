"""report.html in headless Chromium: what the gallery does, what is fetched and run, phones, dark rooms and paper."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.evaluation.report.test_report_safety import HOSTILE
from tests.evaluation.report.test_several_runs import ANSWERS, run
from tests.evaluation.report_run import answered, failed_row, make_row, write_run
from tools.browser import Browser, browser, browser_missing
from vizsage.config import Config
from vizsage.evaluation.report.report_file import write_report
from vizsage.evaluation.report.several_runs import write_comparison
from vizsage.json_lines import write_jsonl

pytestmark = pytest.mark.skipif(browser_missing() is not None, reason=str(browser_missing()))

CARDS = "return [...document.querySelectorAll('#cards .card')].map(card => card.querySelector('h3').textContent)"
COUNT = "return document.getElementById('count').textContent"
FIRST_CARDS = 80  # rendered before anybody scrolls: a screen's worth, whatever the number of samples


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture
def page(chromium: Browser) -> Browser:
    """The browser with the settings of its start: a desktop window, light."""
    chromium.resize(1200, 900)
    chromium.emulate()
    chromium.console()
    chromium.requests()
    return chromium


@pytest.fixture
def config(write_data: Callable[..., Path], tmp_path: Path) -> Config:
    return Config(base_path=write_data(), output_dir=tmp_path / "out")


def samples() -> list[dict[str, Any]]:
    """One of each kind."""
    return [
        make_row(sample_id="id-0", question="what is by the river", tags={"school": "Dutch"}),
        make_row(sample_id="id-1", question="what is red", prediction="a hat", exact_match=False, answer="a cap",
                 answers=["a cap"], tags={"school": "Italian"}),
        make_row(sample_id="id-2", question="who painted it", prediction="Titian and then", exact_match=False,
                 answer="Titian", answers=["Titian", "Titian", "Vecellio"], need_external_knowledge=True,
                 finish_reason="length", image="venus.png", description="By Titian, in Venice."),
        failed_row(sample_id="id-3", question="where is it", image="venus.png", error="it broke"),
        make_row(sample_id="id-4", question="who stands there", prediction="", exact_match=False),
    ]  # fmt: skip


@pytest.fixture
def opened(page: Browser, tmp_path: Path) -> Browser:
    """The gallery of `samples`."""
    page.open(write_report(write_run(tmp_path / "run" / "evaluation_results" / "test", samples())))
    return page


def choose(page: Browser, menu: str, text: str) -> None:
    page.run(
        "const menu = document.getElementById(arguments[0]);"
        "menu.value = [...menu.options].find(option => option.textContent === arguments[1]).value;"
        "menu.dispatchEvent(new Event('input', {bubbles: true}))",
        menu,
        text,
    )


# --- filters and search


def test_every_sample_has_a_card_at_first(opened: Browser) -> None:
    assert opened.run(CARDS) == [row["question"] for row in samples()]
    assert opened.run(COUNT) == "5 samples"
    assert opened.run("return document.getElementById('more').hidden") is True


@pytest.mark.parametrize(
    ("outcome", "label", "found"),
    [
        ("wrong", "Wrong 3", ["what is red", "who painted it", "who stands there"]),
        ("right", "Right 1", ["what is by the river"]),
        ("failed", "Failed 1", ["where is it"]),
        ("cut", "Cut 1", ["who painted it"]),
    ],
)
def test_the_outcome_filters(opened: Browser, outcome: str, label: str, found: list[str]) -> None:
    opened.click(f"input[value={outcome}]")
    assert opened.run(CARDS) == found
    assert opened.run(COUNT) == f"{len(found)} of 5 samples"
    assert opened.run("return document.querySelector('.chip:has(:checked)').textContent") == label


def test_the_menus_filter_and_add_up(opened: Browser) -> None:
    choose(opened, "knowledge", "with external knowledge")
    assert opened.run(CARDS) == ["who painted it"]
    choose(opened, "knowledge", "without")
    choose(opened, "word", "who (2)")
    assert opened.run(CARDS) == ["who stands there"]
    choose(opened, "word", "any")
    choose(opened, "tag", "Italian (1)")
    assert opened.run(CARDS) == ["what is red"]
    opened.click("input[value=right]")
    assert opened.run(CARDS) == []
    assert "Nothing matches." in opened.run("return document.getElementById('cards').textContent")
    opened.click("#controls [type=reset]")
    opened.wait("document.querySelectorAll('.card').length === 5")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("RIVER", ["what is by the river"]),  # question
        ("vecellio", ["who painted it"]),  # an accepted answer
        ("hat", ["what is by the river", "what is red"]),  # "what", and a prediction
        ("venus.png", ["who painted it", "where is it"]),  # image
        ("id-4", ["who stands there"]),
        ("dutch", ["what is by the river"]),  # a tag
        ("titian who", ["who painted it"]),  # all words, in any order
        ("zebra", []),
    ],
)
def test_the_search_finds(opened: Browser, words: str, found: list[str]) -> None:
    opened.type("/")
    opened.type(words)
    assert opened.run(CARDS) == found


def test_the_keyboard_reaches_the_search_and_leaves_it(opened: Browser) -> None:
    opened.type("/")
    assert opened.run("return document.activeElement.id") == "search"
    opened.type("a/b")
    assert opened.run("return document.activeElement.value") == "a/b"
    opened.type("Escape")
    assert opened.run("return document.activeElement.value") == ""
    assert len(opened.run(CARDS)) == 5


def test_the_keyboard_alone_filters_and_unfolds(opened: Browser) -> None:
    opened.run("document.querySelector('input[name=outcome]').focus()")
    opened.type("Right")  # the next of the group
    assert opened.run(COUNT) == "3 of 5 samples"
    reached = set()
    for _ in range(30):
        opened.type("Tab")
        reached.add(opened.run("const e = document.activeElement; return e.id || e.textContent || e.type"))
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        assert opened.run(outline) != "none"
        if opened.run("return document.activeElement.matches('#cards summary')"):
            break
    assert {"search", "knowledge", "word", "tag", "clear"} <= reached
    opened.type("Enter")
    assert opened.run("return document.activeElement.parentElement.open") is True


def test_a_group_of_the_tables_shows_its_samples(opened: Browser) -> None:
    for group, found in (("who", 2), ("without knowledge", 4), ("Dutch", 1)):
        opened.run(
            "[...document.querySelectorAll('[data-choose]')].find(b => b.textContent === arguments[0]).click()", group
        )
        assert len(opened.run(CARDS)) == found
        time.sleep(0.05)  # emptying the form acts a moment later
        assert opened.run(COUNT) == f"{found} of 5 samples"


def test_a_card_says_all_of_a_sample(opened: Browser) -> None:
    card = "return [...document.querySelectorAll('.card')][arguments[0]].textContent"
    text = opened.run(card, 2)
    for part in ("who painted it", "Titian and then", "Titian ×2", "Vecellio", "wrong", "cut", "external knowledge",
                 "By Titian, in Venice.", "venus.png · id-2", "no image"):  # fmt: skip
        assert part in text
    assert "no answer: it broke" in opened.run(card, 3)
    assert "(empty)" in opened.run(card, 4)
    assert "school: Dutch" in opened.run(card, 0)


# --- an image enlarged


@pytest.fixture
def with_images(page: Browser, config: Config) -> Browser:
    """A report with the images of a data set, and with the base model's answers: right where the adapter is wrong."""
    folder = config.output_dir / "evaluation_results" / "test"
    size = (1500, 1000)
    for number, path in enumerate(sorted(config.images_dir.iterdir())):
        Image.effect_noise(size, 20 + 10 * number).convert("RGB").save(path)
    first = str(answered(config, lambda row: None)[0]["sample_id"])
    adapter = answered(config, lambda row: "grey" if row["sample_id"] == first else "blue")
    before = answered(config, lambda row: "blue" if row["sample_id"] == first else "grey")
    write_run(folder.with_name("test-base"), before, config)
    page.open(write_report(write_run(folder, adapter, config, adapter=str(config.adapter_dir))))
    return page


VIEWED = "return [viewer.open, document.getElementById('viewer-question').textContent]"
PLACE = "return document.getElementById('viewer-place').textContent"


def test_a_click_enlarges_an_image_and_arrows_go_on(with_images: Browser) -> None:
    page = with_images
    cards = page.run(CARDS)
    assert page.run("return getComputedStyle(viewer).display") == "none"
    small = page.run("return document.querySelector('.thumb').getBoundingClientRect().width")
    page.click(".card:nth-child(2) .thumb")
    assert page.run(VIEWED) == [True, cards[1]]
    page.wait("document.querySelector('#viewer img').getBoundingClientRect().width > 4 * arguments[0]", small)
    for key, place in (("Right", 2), ("Right", 2), ("Left", 1), ("Left", 0), ("Left", 0)):
        page.type(key)
        assert page.run(VIEWED) == [True, cards[place]]
    assert page.run(PLACE) == f"1 of {len(cards)}"
    assert page.run("return document.getElementById('viewer-back').disabled") is True
    page.click("#viewer-next")
    assert page.run(VIEWED)[1] == cards[1]
    page.click("#viewer-close")
    assert page.run("return getComputedStyle(viewer).display") == "none"
    page.click(".card:nth-child(1) .thumb")
    page.run("viewer.click()")  # beside the box
    assert page.run("return viewer.open") is False
    assert page.console() == []


def test_enter_enlarges_and_escape_returns_to_the_sample_that_was_shown_last(with_images: Browser) -> None:
    page = with_images
    page.run("document.querySelector('.card .enlarge').focus()")
    page.type("Enter")
    page.type("Right")
    page.type("/")  # no shortcut of the page below
    assert page.run(VIEWED)[0] is True
    page.type("Escape")
    assert page.run("return viewer.open") is False
    assert page.run("return document.activeElement === document.querySelectorAll('.card .enlarge')[1]") is True
    page.type("Enter")
    assert page.run(PLACE).startswith("2 of")
    page.type("Escape")


def test_the_viewer_goes_through_the_samples_that_were_chosen(with_images: Browser) -> None:
    page = with_images
    page.click("input[value=wrong]")
    wrong = page.run(CARDS)
    assert 1 < len(wrong) < len(page.run("return rows"))
    page.click(".card:nth-child(1) .thumb")
    page.type("Right")
    assert page.run(VIEWED) == [True, wrong[1]]
    assert page.run(PLACE) == f"2 of {len(wrong)}"


def test_the_base_models_answers_and_what_training_changed(with_images: Browser) -> None:
    page = with_images
    everything, gained, lost = (len(page.run(f"return rows.filter({kind})")) for kind in (
        "() => true", "row => row.outcome === 'right'", "row => row.outcome !== 'right'"
    ))  # fmt: skip
    card = page.run("return [...document.querySelectorAll('.card dt')].slice(0, 3).map(e => e.textContent)")
    assert card == ["predicted", "base model", "accepted"]
    menu = page.run("return [...document.querySelector('[data-run=\"1\"]').options].map(o => o.textContent)")
    assert menu == ["any", f"right ({lost})", f"wrong ({gained})", f"gained: wrong before, right now ({gained})",
                    f"lost: right before, wrong now ({lost})"]  # fmt: skip
    for label, found in ((f"{gained} gained", gained), (f"{lost} lost", lost)):
        page.run(
            "[...document.querySelectorAll('[data-choose]')].find(b => b.textContent === arguments[0]).click()", label
        )
        assert page.run(COUNT) == f"{found} of {everything} samples"
    page.click("#controls [type=reset]")
    page.wait("document.querySelectorAll('.card').length === arguments[0]", everything)


@pytest.mark.parametrize("width", [390, 1200])
def test_the_viewer_fits_the_window(with_images: Browser, width: int) -> None:
    page = with_images
    page.resize(width, 780, phone=width < 700)
    page.click(".card:nth-child(1) .thumb")
    page.wait("document.querySelector('#viewer img').complete")
    beyond = (
        "return [...viewer.querySelectorAll('*')].filter(e => { const r = e.getBoundingClientRect();"
        "return r.right > innerWidth + 1 || r.left < -1"
        "|| (r.bottom > innerHeight + 1 && !e.closest('#viewer-text')) })"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert page.run(beyond) == []
    nodes = page.devtools("Accessibility.getFullAXTree")["nodes"]
    named = [(n["role"]["value"], n.get("name", {}).get("value")) for n in nodes if not n["ignored"]]
    assert [role for role, name in named if role in ("button", "image", "dialog") and not name] == []
    page.type("Escape")


# --- many samples


def test_of_many_samples_a_screens_worth_is_rendered_and_the_rest_on_the_way_down(
    page: Browser, tmp_path: Path
) -> None:
    rows = [make_row(sample_id=f"s{i}", question=f"what is {i}") for i in range(1000)]
    page.open(write_report(write_run(tmp_path / "test", rows)))
    first = len(page.run(CARDS))
    assert 0 < first <= FIRST_CARDS
    assert page.run(COUNT) == "1,000 samples"
    page.run("document.getElementById('more').scrollIntoView({behavior: 'instant'})")
    page.wait("document.querySelectorAll('.card').length > arguments[0]", first)
    assert len(page.run(CARDS)) < 500
    before = len(page.run(CARDS))
    page.run("document.getElementById('more').click()")
    assert page.run(CARDS)[before] == f"what is {before}"
    page.type("/")
    page.type("what is 999")
    assert page.run(CARDS) == ["what is 999"]


# --- nothing from outside, nothing of the data run


def test_nothing_is_fetched_and_nothing_refused(page: Browser, config: Config) -> None:
    rows = answered(config, lambda row: "grey")
    write_jsonl(config.output_dir / "metrics.jsonl", [{"step": 1, "loss": 1.0}, {"step": 2, "exact_match": 0.5}])
    changes = {"adapter": str(config.adapter_dir)}
    path = write_report(write_run(config.output_dir / "evaluation_results" / "test", rows, config, **changes))
    page.open(path)
    assert page.run("return document.querySelectorAll('.card img').length") == len(rows)
    page.wait("[...document.images].every(image => image.complete && image.naturalWidth > 0 && image.alt)")
    assert [address for address in page.requests() if not address.startswith("data:")] == [path.as_uri()]
    entries = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert [name for name in page.run(entries) if not name.startswith("data:")] == []
    assert page.console() == []


def test_the_policy_refuses_what_a_page_could_fetch_or_run(opened: Browser) -> None:
    opened.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"http://127.0.0.1:9/x.png\" onerror=\"hurt = 1\">');"
        "const script = document.createElement('script'); script.textContent = 'window.hurt = 1';"
        "document.body.append(script)"
    )
    time.sleep(0.2)  # time for what must not happen
    assert opened.run("return window.hurt") is None
    assert any("Content Security Policy" in message for message in opened.console())


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_the_data_is_shown_as_it_is_and_never_run(page: Browser, tmp_path: Path, text: str) -> None:
    fields = {"question": text, "answer": text, "answers": [text], "prediction": text, "image": text}
    rows = [
        make_row(**fields, sample_id="a", description=text, tags={"t": text}),
        failed_row(sample_id="b", error=text),
    ]
    page.open(write_report(write_run(tmp_path / "test", rows, adapter=text, base_model=text)))
    page.run("for (const details of document.querySelectorAll('details')) details.open = true")
    time.sleep(0.1)  # time for what must not happen
    assert page.run("return window.hurt") is None
    assert page.run("return document.querySelectorAll('img, #cards script').length") == 0
    for place in (".card h3", ".card .prediction", ".card .answer", ".card details p"):
        assert page.run("return document.querySelector(arguments[0]).textContent", place) == text
    assert text in page.run("return document.querySelectorAll('.card')[1].textContent")
    assert page.console() == []
    choose(page, "tag", f"{text} (1)")
    assert len(page.run(CARDS)) == 1


# --- phones, dark rooms, paper


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_the_page_is_never_wider_than_the_window(page: Browser, config: Config, width: int) -> None:
    long = "Wolkenkratzerschornsteinfegermeisterprüfung" * 4
    rows = answered(config, lambda row: "grey", lambda row: {"school": long, long: "x"})
    rows += [make_row(sample_id=long, question=long, prediction=long, answers=[long], image=long, description=long)]
    rows += [failed_row(sample_id="f", error=long)]
    write_jsonl(config.output_dir / "metrics.jsonl", [{"step": 1, "loss": 1.0}, {"step": 2, "exact_match": 0.5}])
    changes = {"adapter": str(config.adapter_dir), "base_model": long}
    page.resize(width, 780, phone=width < 700)
    page.open(write_report(write_run(config.output_dir / "evaluation_results" / "test", rows, config, **changes)))
    page.run("for (const details of document.querySelectorAll('details')) details.open = true")
    assert page.run("return document.documentElement.scrollWidth") == width
    beyond = (
        "return [...document.querySelectorAll('main *:not(.unseen)')].filter(e => !e.closest('.wide, svg, option') \
        && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert page.run(beyond) == []
    assert page.run("return innerWidth") == width


def colours(page: Browser) -> tuple[str, str]:
    found = page.run("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
    return found[0], found[1]


def test_in_the_dark_it_is_dark_and_the_button_changes_that(opened: Browser) -> None:
    light = colours(opened)
    opened.emulate(dark=True)
    dark = colours(opened)
    assert luminance(light[0]) > 0.8 > 0.2 > luminance(dark[0])
    opened.click("#theme")
    assert colours(opened) == light
    opened.click("#theme")
    assert colours(opened) == dark


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    shares = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_the_contrast_of_wcag_aa(opened: Browser, dark: bool) -> None:
    opened.emulate(dark=dark)
    check_contrast(opened)


def check_contrast(page: Browser) -> None:
    page.run("document.querySelectorAll('details').forEach(details => details.open = true)")
    found = page.run(
        "const solid = e => { const c = getComputedStyle(e).backgroundColor;"
        " return c !== 'rgba(0, 0, 0, 0)' || !e.parentElement ? c : solid(e.parentElement) };"
        "return [...document.querySelectorAll('body *')].filter(e => e.offsetParent && [...e.childNodes]"
        ".some(n => n.nodeType === 3 && n.data.trim())).map(e => [e.outerHTML.slice(0, 80),"
        " getComputedStyle(e).color, solid(e)])"
    )
    assert len(found) > 100
    for what, text, ground in found:
        high, low = sorted((luminance(text), luminance(ground)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (what, text, ground)


def test_every_control_and_part_has_a_name(opened: Browser) -> None:
    nodes = opened.devtools("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "searchbox", "combobox", "radio", "link", "region", "navigation", "search", "image"}
    named = [(n["role"]["value"], n.get("name", {}).get("value")) for n in nodes if not n["ignored"]]
    assert roles - {"image"} <= {role for role, _ in named}
    assert [role for role, name in named if role in roles and not name] == []


def test_on_paper_there_are_no_controls_and_it_is_light(opened: Browser) -> None:
    visible = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent).length"
    controls = "#controls, nav, #theme, #more"
    assert opened.run(visible, controls) > 0
    opened.emulate(medium="print", dark=True)
    assert opened.run(visible, controls) == 0
    assert luminance(colours(opened)[0]) == 1
    assert opened.run(visible, ".card") == 5


def test_printing_takes_more_cards_than_the_screen_and_says_how_many(page: Browser, tmp_path: Path) -> None:
    rows = [make_row(sample_id=f"s{i}", question=f"what is {i}") for i in range(300)]
    page.open(write_report(write_run(tmp_path / "test", rows)))
    assert page.pdf().startswith(b"%PDF")
    assert len(page.run(CARDS)) == 100
    note = page.run("return document.getElementById('print-note').textContent")
    assert note == "The first 100 of 300 samples that were chosen."
    assert page.run("return document.querySelector('details.printed').open") is True


# --- the page of several runs


@pytest.fixture
def several(page: Browser, tmp_path: Path) -> Browser:
    """Three runs; samples 0, 1, 3, 4 and 7 have another outcome, 5 another text only."""
    paths = [run(tmp_path / name, words) for name, words in zip(("one", "two", "three"), ANSWERS, strict=True)]
    page.open(write_comparison(paths, output=tmp_path / "comparison.html"))
    return page


IDS = "return [...document.querySelectorAll('.card .source')].map(e => e.textContent.split('test-')[1])"


def test_several_runs_are_filtered_by_their_outcomes(several: Browser) -> None:
    page = several
    assert page.run(IDS) == ["0", "1", "3", "4", "5", "7"]
    page.click("input[value=text]")
    assert page.run(IDS) == ["5"]
    page.click("input[value=outcome]")
    assert page.run(IDS) == ["0", "1", "3", "4", "7"]
    choose_run(page, 0, "right (3)")
    choose_run(page, 1, "wrong (4)")
    assert page.run(IDS) == ["0", "1"]
    for table in (".pairs-of-runs tbody tr:nth-child(2)", ".pairs-of-runs tbody tr:nth-child(3)"):
        for column in (4, 5):
            number = page.run(
                "return document.querySelector(arguments[0]).textContent", f"{table} td:nth-child({column})"
            )
            page.click(f"{table} td:nth-child({column}) button")
            page.wait("document.querySelectorAll('.card').length === arguments[0]", int(number))
    card = page.run("return [...document.querySelectorAll('.card dt')].slice(0, 4).map(e => e.textContent)")
    assert card == ["A", "B", "C", "accepted"]
    assert page.console() == []
    assert [address for address in page.requests() if not address.startswith(("data:", "file:"))] == []


def choose_run(page: Browser, run: int, text: str) -> None:
    page.run(
        "const menu = document.querySelector(`[data-run='${arguments[0]}']`);"
        "menu.value = [...menu.options].find(option => option.textContent === arguments[1]).value;"
        "menu.dispatchEvent(new Event('input', {bubbles: true}))",
        run,
        text,
    )


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_several_runs_on_a_phone_and_in_the_dark(several: Browser, width: int, dark: bool) -> None:
    page = several
    page.resize(width, 780, phone=width < 700)
    page.emulate(dark=dark)
    assert page.run("return document.documentElement.scrollWidth") == width
    check_contrast(page)


def test_several_runs_on_paper(several: Browser) -> None:
    several.emulate(medium="print", dark=True)
    assert luminance(colours(several)[0]) == 1
    assert several.pdf().startswith(b"%PDF")
    assert several.run("return document.querySelector('details.printed').open") is True
