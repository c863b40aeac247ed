from __future__ import annotations

import json
import math
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vizsage.config import Config, build_config, config_to_yaml, load_config
from vizsage.errors import ConfigError
from vizsage.hints import NOT_HERE, OTHER_TOOLS

SCHEMA = Config.model_json_schema()
CONFIG_FOLDER = Path(__file__).parents[1] / "config"
# Rules over several settings are tested one by one; here each key is alone.
ALONE = {
    name: schema
    for name, schema in SCHEMA["properties"].items()
    if name not in ("loftq_config", "scheduler", "init_adapter", "external_knowledge")
    and not name.startswith("finetune_")
}
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30).filter(
    lambda s: not s.startswith("~")  # a home folder, which may not be there
)


def valid_values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the JSON Schema of a setting allows."""
    if "anyOf" in schema:
        return st.one_of([valid_values(one) for one in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if "pattern" in schema:
        return st.from_regex(schema["pattern"].replace("$", r"\Z")).filter(lambda s: len(s) <= schema["maxLength"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum", 2**40))
        case "number":
            return st.floats(
                schema.get("minimum", schema.get("exclusiveMinimum")),
                schema.get("maximum", schema.get("exclusiveMaximum", 1e9)),
                exclude_min="exclusiveMinimum" in schema,
                exclude_max="exclusiveMaximum" in schema,
            )
        case "string" if schema.get("format") == "path":
            return TEXT.filter(lambda s: s.strip())
        case "string":
            return TEXT.filter(lambda s: len(s) >= schema.get("minLength", 0))
        case "array":
            return st.lists(valid_values(schema["items"]), max_size=3)
        case "null":
            return st.none()
    raise AssertionError(f"no strategy for {schema}")


def out_of_bounds(schema: dict[str, Any]) -> list[Any]:
    """Values just outside the bounds of a number's schema."""
    values: list[Any] = []
    for one in schema.get("anyOf", [schema]):
        step = 1 if one.get("type") == "integer" else 1e-3
        values += [one[key] - step for key in ("minimum",) if key in one]
        values += [one[key] + step for key in ("maximum",) if key in one]
        values += [one[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in one]
    return values


OUTSIDE = [(name, value) for name, schema in ALONE.items() for value in out_of_bounds(schema)]
NUMBERS = [
    name
    for name, schema in ALONE.items()
    if any(one.get("type") in ("integer", "number") for one in schema.get("anyOf", [schema]))
]


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional={name: valid_values(schema) for name, schema in ALONE.items()}))
def test_what_the_schema_allows_is_accepted_and_survives_yaml(
    tmp_path_factory: pytest.TempPathFactory, chosen: dict[str, Any]
) -> None:
    assume(chosen.get("backend") not in ("unsloth", "vllm") or chosen.get("device") != "cpu")
    assume(chosen.get("backend") != "vllm" or not (chosen.get("do_sample") or chosen.get("num_beams", 1) > 1))
    jsonschema.validate(chosen, SCHEMA)
    config = build_config(chosen)
    path = tmp_path_factory.getbasetemp() / "settings.yaml"
    path.write_text(config_to_yaml(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_what_is_out_of_bounds_is_refused_by_model_and_schema_alike(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^settings: {name}: .*found {value}"):
        build_config({name: value})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({name: value}, SCHEMA)


def test_every_number_but_a_scale_has_a_bound() -> None:
    bounded = {name for name, _ in OUTSIDE}
    assert set(NUMBERS) == bounded


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, "many", [1], math.nan, math.inf])
def test_a_number_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^settings: {name}: "):
        build_config({name: value})


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ALONE)), st.one_of(st.lists(st.none()), st.dictionaries(st.text(), st.none())))
def test_a_list_or_a_mapping_is_no_scalar(name: str, value: Any) -> None:
    assume(value != [] or name not in ("wandb_tags", "trackers"))
    with pytest.raises(ConfigError, match=name):
        build_config({name: value})


def test_all_problems_are_reported_at_once_with_what_was_found_and_what_is_allowed() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(
            {
                "batchsize": 3,
                "batch_size": 0,
                "lr": 5,
                "optim": "adam",
                "output_dir": "",
                "finetune_vision_layers": False,
                "finetune_language_layers": False,
            },
            source="my.yaml",
        )
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "my.yaml: unknown key 'batchsize', did you mean 'batch_size'?",
        "batch_size: Input should be 'auto', or Input should be greater than or equal to 1, found 0",
        "lr: Input should be less than or equal to 1, found 5",
        "'adafactor' or 'sgd', found \"adam\"",
        'output_dir: expected the path of a file or folder, found ""',
        "finetune_vision_layers and finetune_language_layers are both false",
    ):
        assert part in message


def test_names_of_other_tools_name_settings_that_there_are() -> None:
    assert not NOT_HERE.keys() & (OTHER_TOOLS.keys() | Config.model_fields.keys())
    for name, meant in OTHER_TOOLS.items():
        assert name not in Config.model_fields
        key = re.split(", | and ", meant)[0]
        assert key in Config.model_fields, name
        told = f"unknown key '{name}': here it is {meant}"
        with pytest.raises(ConfigError, match=f"^settings: {re.escape(told)}$"):
            build_config({name: 1})


@pytest.mark.parametrize(
    ("key", "told"),
    [
        # transformers, unsloth, LLaMA-Factory, TRL, axolotl
        ("learning_rate", "here it is lr"),
        ("num_train_epochs", "here it is epochs"),
        ("gradient_accumulation_steps", "here it is grad_accum"),
        ("per_device_train_batch_size", "here it is batch_size"),
        ("warmup_ratio", "here it is warmup_steps, a number of steps: the ratio times all optimizer steps"),
        ("model", "here it is model_name"),
        ("model_name_or_path", "here it is model_name"),
        ("lora_rank", "here it is lora_r"),
        ("cutoff_len", "here it is max_seq_length"),
        ("max_length", "here it is max_seq_length"),
        ("load_in_8bit", "here it is load_in_4bit, true or false: 8 bits are not offered"),
        ("lora_target", "here it is finetune_vision_layers, finetune_language_layers"),
        ("sequence_len", "here it is max_seq_length"),
        ("template", "there is no such setting, the chat template of the base model is used"),
        ("deepspeed", "there is no such setting, a model has to fit on one GPU"),
        ("Learning-Rate", "here it is lr"),
        ("LORA_R", "here it is lora_r"),
        ("lora-alpha", "here it is lora_alpha"),
        ("learningrate", "here it is lr"),
        ("learningRate", "here it is lr"),
        ("deep_speed", "there is no such setting, a model has to fit on one GPU"),
    ],
)
def test_a_setting_named_as_in_another_tool(key: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{key}': {told}"):
        build_config({key: 1})


def test_a_rule_over_several_settings_is_silent_about_a_key_that_is_wrong_itself() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"external_knowledge": True, "external_knowledge_path": 3})
    assert str(caught.value).count("external_knowledge_path") == 1


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"external_knowledge": True}, "needs external_knowledge_path"),
        ({"finetune_language_layers": False}, "nothing is trained"),
        ({"finetune_attention_modules": False, "finetune_mlp_modules": False}, "nothing is trained"),
        ({"loftq_config": {"loftq_bits": 2}, "load_in_4bit": False}, "loftq_bits must be 4 or 8, found 2"),
        ({"loftq_config": {"bits": 4}, "load_in_4bit": False}, "unknown key 'bits'"),
        ({"loftq_config": {"loftq_bits": True}, "load_in_4bit": False}, "loftq_config: expected a number, found true"),
        ({"loftq_config": {"loftq_bits": 4}}, "needs load_in_4bit: false"),
        ({"loftq_config": {"loftq_bits": 4}, "load_in_4bit": False, "use_dora": True}, "cannot be combined"),
        ({"backend": "unsloth", "device": "cpu"}, "backend: found 'unsloth', but it needs a GPU and device is cpu"),
        ({"backend": "vllm", "device": "cpu"}, "backend: found 'vllm', but it needs a GPU and device is cpu"),
        (
            {"backend": "vllm", "do_sample": True},
            "answers greedily here, and do_sample: true; leave that out or set hf",
        ),
        ({"backend": "vllm", "num_beams": 3}, "answers greedily here, and num_beams: 3; leave that out or set hf"),
        ({"name_trained_model": "../elsewhere"}, "name_trained_model: String should match"),
        ({"scheduler": "polynomial", "lr": 1e-7}, "scheduler: polynomial ends at a learning rate of 1e-07, lr 1e-07"),
        ({"epochs": 1e308}, "epochs: Input should be less than or equal to 1000000"),
        ({"max_steps": 10**400}, "max_steps: expected a number of at most 1000000000000000, found 1000"),
        ({"instruction": "caf\udce9"}, r"instruction: expected UTF-8, found .*caf.*udce9"),
        ({"wandb_tags": ["caf\udce9"]}, r"wandb_tags: expected UTF-8, found .*caf.*udce9"),
    ],
)
def test_settings_that_do_not_go_together(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(chosen)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1e-4\nlr: 2e-4\n", "line 2, column 1: broken YAML: key 'lr' is repeated"),
        ("seed: 1\nlr: [1e-4\n", "line 3, column 1: broken YAML"),
        ("seed: 1\nlr: a: b\n", "line 2, column 6: broken YAML"),
        ("lr:\n\t- 1\n", "line 2, column 1: broken YAML"),
        ("? [lr]\n: 1\n", "line 1, column 3: broken YAML: a key must be a name"),
        ("lr: !!python/object:os.system x\n", "line 1, column 5: broken YAML"),
        ("lr: \x01\n", "broken YAML"),
        ("seed: !!int x\n", "cannot be read: invalid literal"),
        ("- lr\n", "expected lines of `key: value`, found a list"),
        ("lr\n", "expected lines of `key: value`, found a str"),
    ],
)
def test_broken_yaml_names_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"a folder without config.yaml"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("instruction: \xe9t\xe9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read"):
        load_config(tmp_path / "latin.yaml")


def test_an_empty_file_is_all_defaults_and_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"")
    assert load_config(path) == Config()
    path.write_bytes(b"\xef\xbb\xbfseed: 5\r\n")
    assert load_config(path).seed == 5


def test_overrides_lie_over_the_file(write_settings: Callable[..., Path]) -> None:
    path = write_settings(seed=1, lr=0.5, wandb_tags=["a"])
    config = load_config(
        path,
        ["lr=1e-4", "use_bf16=false", "max_steps=null", "wandb_tags=[x, y]", "wandb_run_name=2026-01-31",
         "instruction=Answer: briefly [please # now", "output_dir=out=puts"],
    )  # fmt: skip
    assert (config.seed, config.lr, config.use_bf16, config.max_steps) == (1, 1e-4, False, None)
    assert config.wandb_tags == ("x", "y")
    assert config.wandb_run_name == "2026-01-31"
    assert config.instruction == "Answer: briefly [please # now"
    assert config.output_dir == Path("out=puts")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "'lr' is not an override; write key=value"),
        ("=3", "'=3' is not an override"),
        ("learning_rate=3", "unknown key 'learning_rate'"),
        ("bach_size=3", "did you mean 'batch_size'"),
        ("batch_size=", "batch_size: Input should be 'auto', or Input should be a valid integer, found null"),
        ("batch_size=most", "batch_size: Input should be 'auto'"),
    ],
)
def test_bad_overrides(write_settings: Callable[..., Path], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^on the command line: .*{message}") as caught:
        load_config(write_settings(), [override])
    assert "run.yaml" not in str(caught.value)


def test_each_problem_is_told_of_the_place_where_the_setting_was_given(write_settings: Callable[..., Path]) -> None:
    path = write_settings(lora_r=0, epochs=-1, external_knowledge=True, sed=1)
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["epochs=2", "lr=abc", "epoch=3", "seed"])
    file, command_line = str(caught.value).split("; on the command line: ")
    assert file.startswith(f"{path}: unknown key 'sed', did you mean 'seed'?; lora_r: ")
    assert "external_knowledge: true needs external_knowledge_path" in file
    assert "epochs" not in file
    assert command_line.startswith("'seed' is not an override; write key=value; unknown key 'epoch', did you mean")
    assert "; lr: Input should be a valid number" in command_line
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ConfigError, match=rf"^{path} with the command line: external_knowledge: true needs"):
        load_config(write_settings(), ["external_knowledge=true"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: b", "a: b"),
        ("- a", "- a"),
        ("a # b", "a # b"),
        ("'a # b'", "a # b"),
        ('"true"', "true"),
        ("[", "["),
        ("2024-13-45", "2024-13-45"),
        ("", None),
    ],
)
def test_an_override_that_only_resembles_yaml_is_a_text(tmp_path: Path, text: str, value: str | None) -> None:
    (tmp_path / "run.yaml").touch()
    assert load_config(tmp_path / "run.yaml", [f"wandb_run_name={text}"]).wandb_run_name == value


def test_a_path_may_begin_with_the_sign_of_a_home_folder(
    write_settings: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    path = write_settings(
        model_name="~/model", base_path="~/data", external_knowledge_path="~/table.csv", save_path="~"
    )
    config = load_config(path, ["output_dir=~/outputs/run"])
    found = config.model_name, config.base_path, config.external_knowledge_path, config.save_path, config.output_dir
    assert list(map(str, found)) == [
        f"/users/me{rest}" for rest in ("/model", "/data", "/table.csv", "", "/outputs/run")
    ]
    with pytest.raises(ConfigError, match=r"base_path: ~nobody-here names no home folder .*output_dir: ~no"):
        load_config(path, ["base_path=~nobody-here", "output_dir=~nobody-here/run"])


def test_the_folder_of_a_run_stands_for_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("outputs/cc")
    run.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"outputs/cc: a folder without config.yaml; name a YAML file of settings"):
        load_config(run)
    (run / "config.yaml").write_text(config_to_yaml(Config(output_dir=run, seed=7)))
    (run / "run.json").write_text("{}")
    config = load_config(run, ["lr=0.5"])
    assert (config.seed, config.lr, config.output_dir) == (7, 0.5, run)
    assert load_config(run.absolute()).output_dir == run  # as written there
    shutil.copytree(run, "copied")  # what comes of a copy belongs into the copy
    assert load_config(Path("copied")).output_dir == Path("copied")
    assert load_config(Path("copied"), ["output_dir=new"]).output_dir == Path("new")
    (run / "run.json").unlink()  # made by a user: its output_dir is used
    assert load_config(run.rename("mine")).output_dir == Path("outputs/cc")
    (tmp_path / "mine" / "config.yaml").write_text("lr: fast")
    with pytest.raises(ConfigError, match=r"^mine/config.yaml: lr: "):
        load_config(Path("mine"))


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 2  # type: ignore[misc]


def test_every_setting_has_a_line_of_help() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["additionalProperties"] is False
    for name, schema in SCHEMA["properties"].items():
        assert schema["description"].endswith("."), name
        assert len(schema["description"]) < 120, name
        assert "default" in schema, name


def test_schema_and_model_agree_on_the_defaults() -> None:
    jsonschema.validate(yaml.safe_load(config_to_yaml(Config())), SCHEMA)
    assert {name: schema["default"] for name, schema in SCHEMA["properties"].items()} == json.loads(
        Config().model_dump_json()
    )


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_the_files_in_config_are_valid_and_begin_with_their_command(path: Path) -> None:
    load_config(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# vizsage train config/{path.name}\n")
    schema_view = yaml.safe_load(text)
    assert set(schema_view) <= set(Config.model_fields)


def test_the_example_names_every_setting_in_the_order_of_the_table() -> None:
    assert list(yaml.safe_load((CONFIG_FOLDER / "example_config.yaml").read_text(encoding="utf-8"))) == list(
        Config.model_fields
    )


def test_settings_import_no_torch() -> None:
    code = "import sys, vizsage.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_of_something_else_is_a_message_of_bounded_length(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("".join(f"key{number}: 1\n" for number in range(3000)))
    with pytest.raises(ConfigError, match=r"and 2980 more problems$") as error:
        load_config(tmp_path / "c.yaml")
    assert len(str(error.value)) < 2000
