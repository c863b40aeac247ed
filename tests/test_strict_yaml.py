"""YAML of any size and depth is refused in one short line before its values are made."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from vizsage.config import load_config, read_yaml
from vizsage.errors import ConfigError, shortened

# Nine levels of nine: 583 bytes, and 3.5 thousand million values.
ANCHORS = "".join(
    f"{name}: &{name} [{','.join(['lol' if name == 'a' else f'*{chr(ord(name) - 1)}'] * 9)}]\n" for name in "abcdefghi"
)
DIGITS = "1" * 6000


def problem(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError) as error:
            load_config(path, overrides)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 500 + len(str(path))
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ANCHORS + "wandb_tags: *i\n", "more than 10000 values, anchors counted as often as used"),
        (ANCHORS.replace("[", "{x: [").replace("]", "]}"), "more than 10000 values"),
        ("wandb_tags: &a [*a]", "recursive"),
        ("lr: " + "[" * 6000, "line 1, column 54: broken YAML: nested more than 50 deep"),
        ("lr: " + "{a: " * 6000, "nested more than 50 deep"),
        (f"lr: {DIGITS}", "line 1, column 5: broken YAML: a number of 6000 characters"),
        (f"seed: 0x{DIGITS}", "a number of 6002 characters"),
        ("seed: " + "1:" * 3000 + "1", "a number of 6001 characters"),
        (f"wandb_run_name: 0x{DIGITS}", "a number of 6002 characters"),
        (f"seed: '{DIGITS}'", "exceeded maximum size, found"),
        ("wandb_tags: [" + "[], " * 500 + "[]]", "wandb_tags: Input should be a valid string, found []"),
        (f"{'x' * 1000}: 1\n{'x' * 1000}: 1", "is repeated"),
    ],
)  # fmt: skip
def test_what_no_setting_needs(tmp_path: Path, text: str, message: str) -> None:
    assert message in problem(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"lr={DIGITS}", "lr: Input should be a finite number, found"),
        (f"seed=0x{DIGITS}", "seed: Input should be a valid integer"),
        ("lr=" + "[" * 6000, "lr: Input should be a valid number"),
        (f"{DIGITS}=1", "unknown key '1111"),
        (DIGITS, "is not an override"),
    ],
)
def test_overrides_are_as_bounded(tmp_path: Path, override: str, message: str) -> None:
    found = problem(tmp_path, "seed: 1\n", override)
    assert message in found
    assert "characters more" in found


def test_an_anchor_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("wandb_tags: &tags [a, b]\nloftq_config: null\nx: [*tags, *tags]\n")
    assert read_yaml(tmp_path / "c.yaml")["x"] == [["a", "b"], ["a", "b"]]


def test_a_long_text_is_shortened_in_the_middle() -> None:
    assert shortened("x" * 200) == "x" * 200
    found = shortened("a" * 5000 + "b" * 5000)
    assert found == "a" * 85 + "... 9830 characters more ..." + "b" * 85
