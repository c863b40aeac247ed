"""The model card: its code answers as `vizsage predict` does, and it names the base model, not a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.families import BUILDERS
from tests.families.data import noise, randomise_adapter, settings
from vizsage.config import Config
from vizsage.data.encoding import PromptEncoder
from vizsage.data.images import FileImage
from vizsage.data.sample import Sample
from vizsage.evaluation.predict import predict
from vizsage.models.adapters.lora import add_adapter, save_adapter
from vizsage.models.loaded import hub_name
from vizsage.models.loading.hf import load_base
from vizsage.training.card import write_card
from vizsage.training.card_snippet import usage_snippet

QUESTION = "what shape is on the left, and which colour has it"


def filled_in(code: str, **constants: Path | str) -> str:
    """The code of a card with its constants set."""
    for name, value in constants.items():
        [line] = re.findall(rf"^{name} = .*$", code, re.MULTILINE)
        code = code.replace(line, f"{name} = {str(value)!r}")
    return code


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        *((family, {}) for family in sorted(BUILDERS)),
        ("mllama", {"resize_px": 1600, "instruction": 'Say "it" <|eot_id|>\nin {one} word:', "num_beams": 2}),
        ("qwen2_5_vl", {"instruction": " "}),
    ],
)
def test_the_code_answers_as_predict_does(
    family: str, changed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(family, **changed)
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    randomise_adapter(model, 0.3, seed=1)
    adapter, image = tmp_path / "adapter", tmp_path / "image.png"
    save_adapter(model, loaded.processor, config, adapter, loaded.base_identity)
    image.write_bytes(noise("one", 90, 56).data)
    code = usage_snippet(config, loaded.processor, loaded.model.generation_config, loaded.base_identity)
    expected = predict(config, image, QUESTION, adapter=adapter).text
    if family != "gemma3":  # whose small random model repeats the last token, with any adapter
        assert expected not in (None, "", predict(config, image, QUESTION, base=True).text)
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(filled_in(code, ADAPTER=adapter, BASE=config.model_name, IMAGE=image, QUESTION=QUESTION), names)
    assert capsys.readouterr().out == f"{expected}\n"
    sample = Sample("", (FileImage(image.name, image.parent),), QUESTION, "")
    inputs = PromptEncoder(loaded.processor, config).encode([sample], [0], skip_bad=False).inputs
    assert inputs.keys() == names["inputs"].keys()
    assert all(inputs[name].equal(value) for name, value in names["inputs"].items())


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        ("some/model-7B", "some/model-7B"),
        ("/mnt/models/model", None),
        ("../model", None),
        ("cache/some/model", None),
        ("data/model", None),  # such a folder is here
        (7, None),
        (None, None),
    ],
)
def test_a_folder_is_named_as_its_config_says_if_that_is_no_path(
    saved: Any, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({} if saved is None else {"_name_or_path": saved}))
    monkeypatch.chdir(tmp_path)
    config = Config(model_name=str(folder))
    assert hub_name(config) == name
    card = written_card(config, tmp_path)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front.get("base_model", "absent") == (name or "absent")
    assert str(tmp_path) not in card


@pytest.mark.parametrize(("model_name", "name"), [("some/model", "some/model"), ("vizsage-tiny", None)])
def test_a_name_is_that_of_the_hub_or_of_the_tiny_model(model_name: str, name: str | None, tmp_path: Path) -> None:
    card = written_card(Config(model_name=model_name), tmp_path)
    assert yaml.safe_load(card.split("---\n")[1]).get("base_model") == name
    assert f"model_name: {model_name}" in card


def written_card(config: Config, folder: Path) -> str:
    write_card(folder, config, base_identity="content:1", snippet="print(1)", facts={}, scores=None, example=None)
    return (folder / "README.md").read_text()
