"""Evaluation and prediction with a small random model of a real architecture, from files to results."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from PIL import Image

from vizsage.config import Config
from vizsage.errors import CheckpointError, ConfigError, DataError, RepeatingError
from vizsage.evaluation.evaluate import evaluate
from vizsage.evaluation.predict import predict
from vizsage.json_lines import read_jsonl

torch = pytest.importorskip("torch")

from tests.families import mllama  # noqa: E402 -- imports torch
from tests.families.data import randomise_adapter  # noqa: E402

COLOURS = ["red", "green", "blue", "yellow", "white"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mllama.build(tmp_path_factory.mktemp("mllama"))


@pytest.fixture(scope="module")
def config(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """5 images, 19 questions of very different lengths, a table of descriptions."""
    data = tmp_path_factory.mktemp("data")
    (data / "AQUA").mkdir()
    (data / "Images").mkdir()
    records = []
    for i, colour in enumerate(COLOURS):
        Image.new("RGB", (30 + 9 * i, 40), colour).save(data / "Images" / f"{colour}.png")
        for j in range(4 if i else 3):
            question = " ".join(["what colour is the square on the left"] * (1 + (i * 3 + j) % 4)) + f" {i}{j}"
            record = {"image": f"{colour}.png", "question": question, "answer": colour}
            records.append(record | {"need_external_knowledge": j == 1})
    (data / "AQUA" / "test.json").write_text(json.dumps(records))
    lines = [f"{colour}.png\tA painting that is {colour}, and more words than that." for colour in COLOURS]
    (data / "table.csv").write_text("\n".join(["IMAGE_FILE\tDESCRIPTION", *lines]) + "\n", encoding="latin-1")
    return Config(
        model_name=str(model_folder),
        device="cpu",
        load_in_4bit=False,
        use_bf16=False,
        use_gradient_checkpointing=False,
        base_path=data,
        external_knowledge=True,
        external_knowledge_path=data / "table.csv",
        max_new_tokens=6,
        max_seq_length=512,
        output_dir=data / "out",
    )


@pytest.fixture(scope="module")
def adapter(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_adapter(config, tmp_path_factory.mktemp("adapters") / "one", seed=1)


def _save_adapter(config: Config, folder: Path, *, seed: int) -> Path:
    """An adapter that has an effect: a fresh one is zero."""
    from vizsage.models.adapters.lora import add_adapter, save_adapter
    from vizsage.models.loading.hf import load_base

    loaded = load_base(config)
    model = add_adapter(loaded, config)
    randomise_adapter(model, 0.3, seed)
    save_adapter(model, loaded.processor, config, folder, loaded.base_identity)
    return folder


def answers(config: Config, folder: str = "test") -> list[list[int]]:
    lines = read_jsonl(config.output_dir / "evaluation_results" / folder / "predictions.jsonl")
    return [line["token_ids"] for line in lines]


def with_output(config: Config, folder: Path, **changes: Any) -> Config:
    return config.model_copy(update={"output_dir": folder, **changes})


def test_batch_size_and_streaming_do_not_change_the_answers(config: Config, adapter: Path, tmp_path: Path) -> None:
    files = []
    for batch_size, streaming in ((1, False), (8, False), (3, True)):
        run = with_output(
            config,
            tmp_path / f"{batch_size}",
            eval_batch_size=batch_size,
            use_val_streaming=streaming,
            stream_buffer_size=7,
        )
        results = evaluate(run, adapter=adapter)
        assert results["total_samples"] == 19
        assert results["with_external_knowledge"]["samples"] == 5
        files.append((run.output_dir / "evaluation_results/test/predictions.jsonl").read_bytes())
    assert files[0] == files[1] == files[2]
    assert len({tuple(ids) for ids in answers(run)}) > 5  # the model does not give one answer to everything


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that takes the number of questions that fit into a batch; empty: all do."""
    from vizsage.models import memory
    from vizsage.models.shared_image.decoding import BranchDecoder

    fitting: list[int] = []
    generate = BranchDecoder.generate

    def limited(self: BranchDecoder, trees: Any, last: list[list[int]], *more: Any) -> Any:
        if fitting and sum(map(len, last)) > fitting[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return generate(self, trees, last, *more)

    monkeypatch.setattr(memory, "usage", lambda: "peak 9.1 of 10.0 GiB")
    monkeypatch.setattr(BranchDecoder, "generate", limited)
    return fitting


def test_batches_that_do_not_fit_are_answered_in_halves(
    config: Config, tmp_path: Path, small_memory: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    run = with_output(config, tmp_path / "halves", eval_batch_size=8)
    small_memory += [4]
    evaluate(run, base=True)
    assert "8 questions at once do not fit into memory" in caplog.text
    small_memory.clear()
    whole = with_output(config, tmp_path / "whole", eval_batch_size=8)
    evaluate(whole, base=True)
    assert answers(run, "test-base") == answers(whole, "test-base")


def test_a_question_that_does_not_fit_ends_the_evaluation_with_the_numbers(
    config: Config, tmp_path: Path, small_memory: list[int]
) -> None:
    small_memory += [0]
    with pytest.raises(
        RepeatingError, match=r"during answering: peak 9.1 of 10.0 GiB with .*max_new_tokens 6"
    ) as caught:
        evaluate(with_output(config, tmp_path), base=True)
    assert caught.value.exit_code == 4


def test_a_question_that_does_not_fit(config: Config, small_memory: list[int]) -> None:
    small_memory += [0]
    with pytest.raises(RepeatingError, match="during answering") as caught:
        predict(config, config.base_path / "Images" / "red.png", "what colour is it", base=True)
    assert "eval_batch_size" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_results_name_the_adapter(config: Config, adapter: Path, tmp_path: Path) -> None:
    run = with_output(config, tmp_path)
    results = evaluate(run, adapter=adapter, limit=4)
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    assert results["adapter_sha256"] == hashlib.sha256(weights).hexdigest()
    assert results["adapter"] == str(adapter)
    assert results["knowledge"] == "oracle"
    assert results["precision"] == {"dtype": "float32", "load_in_4bit": False}
    assert results["fingerprint"]["base_identity"].startswith("content:")
    assert results["generation"] == {"max_new_tokens": 6, "num_beams": 1, "do_sample": False}

    evaluate(run, base=True, limit=4)
    assert answers(run, "test-base") != answers(run)

    other = _save_adapter(config, tmp_path / "other", seed=2)
    assert evaluate(run, adapter=other, limit=4)["throughput"]["answers"] == 4
    [aside] = (tmp_path / "evaluation_results/test").glob("earlier-*")
    assert len(list(read_jsonl(aside / "predictions.jsonl"))) == 4


def test_other_generation_settings_are_another_evaluation(config: Config, adapter: Path, tmp_path: Path) -> None:
    evaluate(with_output(config, tmp_path), adapter=adapter, limit=3)
    evaluate(with_output(config, tmp_path, top_p=0.5, eval_batch_size=2), adapter=adapter, limit=3)  # greedy: no effect
    folder = tmp_path / "evaluation_results/test"
    assert not list(folder.glob("earlier-*"))
    results = evaluate(with_output(config, tmp_path, max_new_tokens=3), adapter=adapter, limit=3)
    assert results["truncated_predictions"] == 3
    assert len(list(folder.glob("earlier-*"))) == 1
    assert len(list(read_jsonl(next((folder / "answers").glob("*.jsonl"))))) == 3  # the first ones are still there


def test_answers_outlive_what_does_not_decide_them(config: Config, adapter: Path, tmp_path: Path) -> None:
    """Another template that renders the same prompt, another place of the same adapter, other batches: same answers."""
    first = evaluate(with_output(config, tmp_path), adapter=adapter)
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved)
    again = evaluate(with_output(config, tmp_path, eval_batch_tokens=64, share_images=False), adapter=moved)
    assert again["throughput"] == first["throughput"]  # nothing was answered
    [file] = (tmp_path / "evaluation_results/test/answers").iterdir()
    assert len(list(read_jsonl(file))) == 19


def test_what_decides_an_answer_makes_it_be_asked_again(config: Config, tmp_path: Path) -> None:
    """And nothing else does; what was asked before is never asked a third time."""
    data = tmp_path / "data"
    shutil.copytree(config.base_path, data, ignore=shutil.ignore_patterns("out"))
    run = with_output(config, tmp_path, base_path=data, external_knowledge_path=data / "table.csv")
    kept = tmp_path / "evaluation_results/test-base/answers"

    def asked(**changes: Any) -> int:
        """New answers; of the first 7 questions two need a description."""
        before = sum(path.read_bytes().count(b"\n") for path in kept.glob("*"))
        evaluate(run.model_copy(update=changes), base=True, limit=7)
        return sum(path.read_bytes().count(b"\n") for path in kept.glob("*")) - before

    assert asked() == 7
    for changes in (
        {"instruction": "Say it."},
        {"resize_px": 1024},
        {"max_seq_length": 500},
        {"max_new_tokens": 2},
        {"num_beams": 2},
        {"do_sample": True},
        {"do_sample": True, "seed": 5},
        {"do_sample": True, "temperature": 2.0},
    ):
        assert (asked(**changes), asked(**changes)) == (7, 0), changes
    for changes in (
        {"eval_batch_size": 2},
        {"share_images": False},
        {"use_val_streaming": True},
        {"seed": 5},
        {"external_knowledge_source": "retrieved"},
        {"use_text_normalization": False},
    ):
        assert asked(**changes) == 0, changes
    table = run.external_knowledge_path
    assert table is not None
    table.write_text(table.read_text().replace("painting that is red", "image that is red"))
    assert asked() == 1
    Image.new("RGB", (30, 40), "purple").save(data / "Images/red.png")
    assert (asked(), asked()) == (3, 0)


def test_other_files_beside_the_same_weights_are_another_model(
    config: Config, model_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    """Weights, template and prompts are as before, but where an answer ends is not."""
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    run = with_output(config, tmp_path, model_name=str(base))
    first = evaluate(run, adapter=adapter, limit=6)
    ids = answers(run)
    ending = json.loads((base / "generation_config.json").read_text())
    ends = [*ending["eos_token_id"]] if isinstance(ending["eos_token_id"], list) else [ending["eos_token_id"]]
    (base / "generation_config.json").write_text(json.dumps(ending | {"eos_token_id": [*ends, ids[0][0]]}))
    second = evaluate(run, adapter=adapter, limit=6)
    assert answers(run)[0] == []
    assert second["fingerprint"] == first["fingerprint"]
    assert second["base_files_sha256"] != first["base_files_sha256"]


def test_the_hash_is_that_of_the_weights_which_are_loaded(config: Config, adapter: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(adapter, both)
    for ending in ("bin", *ascii_lowercase):  # many, because folders are listed in any order
        (both / f"adapter_model.{ending}").write_bytes(b"of an earlier training")
    found = evaluate(with_output(config, tmp_path), adapter=both, limit=1)["adapter_sha256"]
    assert found == hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_blind_answers_do_not_see_the_image(config: Config, adapter: Path, tmp_path: Path) -> None:
    run = with_output(config, tmp_path, max_new_tokens=12)
    seen, blind = evaluate(run, adapter=adapter), evaluate(run, adapter=adapter, blind=True)
    assert (seen["blind"], blind["blind"]) == (False, True)
    assert blind["data"] == seen["data"]  # the same questions, images and answers
    assert blind["images"] == seen["images"]
    rows = list(read_jsonl(tmp_path / "evaluation_results/test-blind/predictions.jsonl"))
    assert {row["image"] for row in rows} == {row["image"] for row in read_jsonl(
        tmp_path / "evaluation_results/test/predictions.jsonl")}  # fmt: skip
    assert answers(run, "test-blind") != answers(run)
    repainted = tmp_path / "repainted"
    shutil.copytree(config.base_path, repainted, ignore=shutil.ignore_patterns("out"))
    for path in (repainted / "Images").iterdir():
        Image.new("RGB", (20, 70), "purple").save(path)
    other = with_output(run, tmp_path / "other", base_path=repainted)
    evaluate(other, adapter=adapter, blind=True)
    assert answers(other, "test-blind") == answers(run, "test-blind")
    evaluate(other, adapter=adapter)
    assert answers(other) != answers(run)


def test_without_external_knowledge(config: Config, adapter: Path, tmp_path: Path) -> None:
    results = evaluate(with_output(config, tmp_path, external_knowledge=False), adapter=adapter)
    assert results["total_samples"] == 14
    assert results["left_out"] == {"need_external_knowledge": 5}
    assert results["with_external_knowledge"]["exact_match_score"] is None
    assert results["knowledge"] == "none"


def test_an_adapter_of_another_prompt_or_base_is_refused(config: Config, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="instruction"):
        evaluate(with_output(config, tmp_path, instruction="Say it."), adapter=adapter)
    assert not (tmp_path / "evaluation_results").exists()


def test_predict(config: Config, adapter: Path, tmp_path: Path) -> None:
    image = tmp_path / "elsewhere" / "my image.png"
    image.parent.mkdir()
    Image.new("RGB", (50, 30), "red").save(image)
    link = tmp_path / "links" / "link.png"  # out of its folder, as a record of a data set may not
    link.parent.mkdir()
    link.symlink_to(image)
    answer = predict(config, image, "what colour is the square", adapter=adapter)
    assert answer.text is not None
    assert len(answer.token_ids) <= 6
    linked = predict(config, link, "what colour is the square", adapter=adapter)
    described = predict(config, image, "what colour is the square", description="A red square.", adapter=adapter)
    assert linked.token_ids == answer.token_ids != described.token_ids
    assert predict(config, image, "what colour is the square", base=True).token_ids != answer.token_ids


def test_predict_equals_evaluate(config: Config, adapter: Path, tmp_path: Path) -> None:
    run = with_output(config, tmp_path)
    evaluate(run, adapter=adapter, limit=3)
    [first, second, *_] = read_jsonl(tmp_path / "evaluation_results/test/predictions.jsonl")
    image = config.images_dir / "red.png"
    assert predict(config, image, first["question"], adapter=adapter).token_ids == first["token_ids"]
    described = "A painting that is red, and more words than that."
    answer = predict(config, image, second["question"], description=described, adapter=adapter)
    assert (second["need_external_knowledge"], answer.token_ids) == (True, second["token_ids"])


def test_predict_with_bad_input(config: Config, adapter: Path, tmp_path: Path) -> None:
    for texts in ({"question": "caf\udce9"}, {"question": "what", "description": "caf\udce9"}):
        with pytest.raises(ConfigError, match=r"(question|description): expected UTF-8, found .*caf.*udce9"):
            predict(config, config.base_path / "Images" / "red.png", **texts)
    with pytest.raises(DataError, match=r"missing\.png: no such image file"):
        predict(config, tmp_path / "missing.png", "what", adapter=adapter)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        predict(config, tmp_path / "bad.png", "what", adapter=adapter)
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png"):
        predict(config, tmp_path / "empty.png", "what", adapter=adapter)
    with pytest.raises(ConfigError, match="question"):
        predict(config, config.images_dir / "red.png", " ", adapter=adapter)
    with pytest.raises(CheckpointError, match="no adapter there"):
        predict(config, config.images_dir / "red.png", "what", adapter=tmp_path)
