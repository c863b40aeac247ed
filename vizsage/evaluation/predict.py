"""`vizsage predict`: one question about one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vizsage.config import Config, is_unicode
from vizsage.data.images import FileImage, load_image
from vizsage.data.sample import Sample
from vizsage.errors import ConfigError, DataError, shortened
from vizsage.evaluation.answerer import find_adapter, load_answerer

if TYPE_CHECKING:
    from vizsage.models.loaded import Answer


def predict(
    config: Config,
    image: Path,
    question: str,
    *,
    description: str | None = None,
    base: bool = False,
    adapter: Path | None = None,
) -> Answer:
    """Answer `question` about the file `image`, which may be in any folder.

    Args:
        config: the settings of the run whose adapter answers.
        image: a file in any image format that training reads.
        question: one question.
        description: external knowledge on the image, put into the prompt as in training.
        base: the base model without an adapter.
        adapter: folder of another adapter than the one that `config` trains.

    Raises:
        ConfigError: an empty question, or `base` together with `adapter`.
        DataError: the image is missing or cannot be decoded, or the prompt does not fit; before the model is loaded
            where possible.
        CheckpointError: no adapter, or one of another base or prompt.
        RepeatingError: GPU memory exceeded.
    """
    if not question.strip():
        raise ConfigError("question: expected a text, found an empty one")
    for name, text in (("question", question), ("description", description)):
        if not is_unicode(text):
            raise ConfigError(f"{name}: expected UTF-8, found {shortened(ascii(text))}")
    adapter = find_adapter(config, base=base, adapter=adapter)
    file = (
        image.resolve()
    )  # a link that the user names is allowed; FileImage would refuse one that leads out of its folder
    if not file.is_file():
        raise DataError(f"{image}: no such image file")
    sample = Sample(
        sample_id=image.name,
        images=(FileImage(file.name, file.parent),),
        question=question,
        answer="",
        need_external_knowledge=description is not None,
        description=description,
    )
    for shown in sample.images:
        load_image(shown, max_image_px=config.max_image_px)

    from vizsage.models.memory import memory_reported

    answerer = load_answerer(config, adapter)
    with memory_reported(answerer.config, "answering"):
        [[answer]] = answerer.model.answer([[sample]])
    if answer.text is None:
        raise DataError(f"{image}: {answer.error}")
    return answer
