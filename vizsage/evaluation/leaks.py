"""What an evaluation keeps of its samples to find them in a training split, and what it finds in the adapter's own."""

from __future__ import annotations

import logging
from pathlib import Path

from vizsage.config import Config
from vizsage.contract import RUN, SAMPLE_HASHES
from vizsage.contract.hashes_file import Leaks, SampleHashes, read_hashes
from vizsage.contract.run_files import read_run
from vizsage.data.identity import hash_of_sha256
from vizsage.data.sample import ImageRef
from vizsage.data.sample_hashes import HashCollector, overlap
from vizsage.errors import one_line
from vizsage.evaluation.answers import UNREADABLE, AnswerKeys

log = logging.getLogger(__name__)


def asked_hashes(keys: AnswerKeys) -> HashCollector:
    """Collects the hashes of what is asked. Images are identified by bytes and by name: a training may have either."""

    def of_bytes(image: ImageRef) -> bytes | None:
        sha256 = keys.image_sha256(image)
        return None if sha256 == UNREADABLE else hash_of_sha256(sha256)

    return HashCollector(of_bytes, by_content=True, by_name=True)


def leaks_of(asked: SampleHashes, config: Config, adapter: Path | None) -> Leaks | None:
    """How much of what was asked is in the training split of the run that made the adapter.

    That run is in output_dir for the adapter that `config` trains, else in the folder above the adapter. None for the
    base model, which no run here trained, and where no run is found or it has no hashes. A damaged one is a warning.
    """
    if adapter is None:
        return None
    folder = config.output_dir if adapter.absolute() == config.adapter_dir.absolute() else adapter.absolute().parent
    try:
        facts = read_run(folder).sample_hashes
        return None if facts is None else overlap(asked, read_hashes(folder, facts), str(folder))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning(
            "%s: %s or %s cannot be read (%s); training samples in this split are not counted",
            folder,
            RUN,
            SAMPLE_HASHES,
            one_line(error),
        )
        return None


def leak_warning(leaks: Leaks | None, split: str) -> str | None:
    """One line if samples of `split` were trained on, which makes every score of them too high."""
    if leaks is None or not leaks.samples_in_training or split == "train":
        return None
    return (
        f"{leaks.samples_in_training:,} of {leaks.samples:,} samples are in the training split of "
        f"{leaks.train_run}, so the scores are too high; vizsage compare RUN --leaks {leaks.train_run} names them"
    )
