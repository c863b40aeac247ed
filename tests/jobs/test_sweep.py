"""Overrides become combinations, combinations become runs: names, refusals, everything checked first."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.sweep import combinations, members, run_name
from vizsage.config import load_config
from vizsage.errors import ConfigError

SettingsWriter = Callable[..., Path]


def refusal(overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        combinations(overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_combinations_are_the_product_in_the_order_given() -> None:
    assert combinations(["lr=1e-4,2e-4", "seed=7", "lora_r=16,32"]) == [
        ("lr=1e-4", "seed=7", "lora_r=16"),
        ("lr=1e-4", "seed=7", "lora_r=32"),
        ("lr=2e-4", "seed=7", "lora_r=16"),
        ("lr=2e-4", "seed=7", "lora_r=32"),
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a,b", ["a", "b"]),
        ("a, b", ["a", "b"]),
        ("[a, b],[c]", ["[a, b]", "[c]"]),
        ("[[a, b], c],null", ["[[a, b], c]", "null"]),
        ("{loftq_bits: 4, loftq_iter: 1},{loftq_bits: 8}", ["{loftq_bits: 4, loftq_iter: 1}", "{loftq_bits: 8}"]),
        ('"Say, briefly.",Answer.', ['"Say, briefly."', "Answer."]),
        ("'Say, briefly.',Answer.", ["'Say, briefly.'", "Answer."]),
        (r'"say \", and",b', [r'"say \", and"', "b"]),
        ("'it''s, so',b", ["'it''s, so'", "b"]),
        ("['a,]', b],c", ["['a,]', b]", "c"]),
        ("don't,do", ["don't", "do"]),
        ("a],b", ["a]", "b"]),
        ("a=b,c=d", ["a=b", "c=d"]),
    ],
)
def test_commas_inside_brackets_and_quotes_belong_to_the_value(text: str, values: list[str]) -> None:
    assert combinations([f"key={text}"]) == [(f"key={value}",) for value in values]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lr=1e-4,1e-4"], "lr: the value 1e-4 is repeated"),
        (["lr=1e-4, 1e-4"], "lr: the value 1e-4 is repeated"),
        (["lr=1e-4,2e-4", "lr=3e-4"], "lr: given more than once"),
        (["lr=1e-4,"], "lr: an empty value"),
        (["lr=,1e-4"], "lr: an empty value"),
        (["lr=1e-4,2e-4", "wandb_run_name="], "wandb_run_name: an empty value"),
        (["lr=1e-4", "lora_r=16"], "several values"),
        ([], "several values"),
        (["lr=1e-4,2e-4", "lora_r"], "'lora_r' is not an override"),
        (["=1,2"], "not an override"),
        (["wandb_tags=[a,b"], "[ is not closed"),
        (["instruction='a,b"], "' is not closed"),
        (["wandb_tags=[a},b"], "brackets do not match"),
    ],
)
def test_what_is_no_sweep_is_refused_in_one_line(overrides: list[str], words: str) -> None:
    assert words in refusal(overrides)


def test_a_name_tells_the_values() -> None:
    assert run_name(("lr=1e-4", "lora_r=16")) == "lr=1e-4,lora_r=16"


@pytest.mark.parametrize(
    "value", ["a/b", "../..", "a b", "$(reboot)", "`x`", "%j", "a:b", '"a, b"', "é", "a;b", "a\nb", "x" * 500, "*"]
)
def test_names_are_safe_as_folders_in_shells_and_in_slurm(value: str) -> None:
    name = run_name((f"instruction={value}", "lr=1e-4"))
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,119}", name), name


def test_values_that_look_alike_when_made_safe_keep_names_of_their_own() -> None:
    values = ["a/b", "a_b", "a b", "a:b", "x" * 300, "x" * 301]
    assert len({run_name((f"model_name={value}",)) for value in values}) == len(values)


def test_members_have_folders_below_output_dir_and_the_settings_of_their_overrides(
    write_settings: SettingsWriter,
) -> None:
    path = write_settings(output_dir="outputs/base", epochs=3)
    found = members(path, ["lr=1e-4,2e-4", "seed=7", "lora_r=16,32"])
    assert [str(member.run_dir) for member in found] == [
        "outputs/base/lr=1e-4,lora_r=16",
        "outputs/base/lr=1e-4,lora_r=32",
        "outputs/base/lr=2e-4,lora_r=16",
        "outputs/base/lr=2e-4,lora_r=32",
    ]
    assert [(m.config.lr, m.config.lora_r, m.config.seed, m.config.epochs) for m in found] == [
        (1e-4, 16, 7, 3),
        (1e-4, 32, 7, 3),
        (2e-4, 16, 7, 3),
        (2e-4, 32, 7, 3),
    ]
    for member in found:
        assert member.config.output_dir == member.run_dir
        assert load_config(path, member.overrides) == member.config


def test_output_dir_may_be_given_once_as_the_folder_of_all(write_settings: SettingsWriter) -> None:
    path = write_settings(output_dir="outputs/base")
    found = members(path, ["output_dir=other/place", "lr=1e-4,2e-4"])
    assert [str(member.run_dir) for member in found] == ["other/place/lr=1e-4", "other/place/lr=2e-4"]
    for member in found:
        assert sum(text.startswith("output_dir=") for text in member.overrides) == 1
        assert load_config(path, member.overrides) == member.config


def test_output_dir_cannot_be_swept(write_settings: SettingsWriter) -> None:
    with pytest.raises(ConfigError, match="output_dir"):
        members(write_settings(), ["output_dir=a,b"])


def test_one_invalid_member_refuses_the_sweep_and_each_problem_is_told_once(write_settings: SettingsWriter) -> None:
    path = write_settings(epochs=-1)
    with pytest.raises(ConfigError) as caught:
        members(path, ["lr=1e-4,5", "lora_r=16,0", "epoch=1"])
    message = str(caught.value)
    assert "\n" not in message
    assert message.count(str(path)) == 1
    for problem in ("lr: ", "lora_r: ", "epochs: ", "unknown key 'epoch'"):
        assert message.count(problem) == 1, message
    assert message.startswith(f"{path}: epochs: ")
    assert message.index("; on the command line: ") < message.index("lr: ")


def test_rules_over_several_settings_hold_for_each_member(write_settings: SettingsWriter) -> None:
    with pytest.raises(ConfigError, match="external_knowledge_path"):
        members(write_settings(), ["external_knowledge=false,true"])
    found = members(write_settings(external_knowledge_path="data/semart.csv"), ["external_knowledge=false,true"])
    assert [member.config.external_knowledge for member in found] == [False, True]


def test_two_ways_to_write_one_value_are_one_run(write_settings: SettingsWriter) -> None:
    with pytest.raises(ConfigError, match=r"lr=1e-4 and lr=0.0001 are one run"):
        members(write_settings(), ["lr=1e-4,0.0001"])


def test_runs_that_would_overwrite_each_others_adapter_are_refused(write_settings: SettingsWriter) -> None:
    path = write_settings(save_path="adapters")
    with pytest.raises(ConfigError, match="save_path"):
        members(path, ["lr=1e-4,2e-4"])
    assert len(members(path, ["lr=1e-4,2e-4", "save_path=null"])) == 2
    assert len(members(path, ["name_trained_model=a,b"])) == 2


def test_a_file_that_is_not_there_is_one_problem(write_settings: SettingsWriter, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        members(tmp_path / "none.yaml", ["lr=1e-4,2e-4"])
    assert str(caught.value).count("no such file") == 1
