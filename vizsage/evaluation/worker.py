"""One process of an evaluation: it answers its part of the batches and writes each answer to disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from vizsage.data.images import refuse_bad_images
from vizsage.data.sample import Sample
from vizsage.distributed.processes import Processes
from vizsage.evaluation.answerer import Answerer
from vizsage.evaluation.answers import AnswerKeys, AnswerStore, KeptAnswer
from vizsage.evaluation.questions import Questions, as_shown, blinded

if TYPE_CHECKING:
    from vizsage.models.loaded import Answer


class EvaluationWorker:
    """The part of an evaluation that one process answers."""

    def __init__(self, answerer: Answerer, store: AnswerStore, processes: Processes, *, blind: bool) -> None:
        self.answerer, self.store, self.processes = answerer, store, processes
        self.keys = AnswerKeys(answerer.made_by, answerer.model.prompt_ids)
        self.shown: Callable[[Sample], Sample] = blinded if blind else as_shown

    def answer_all(self, questions: Questions, advance: Callable[[int], None]) -> bool:
        """Answer the part of `questions` that belongs to this process.

        Args:
            questions: all of them.
            advance: called with the number of samples that were answered since the last call, by any process.

        Returns:
            Whether a signal asks to stop.
        """
        for samples in questions.chunks(self.answerer.config.stream_buffer_size):
            for done in self.answer(samples):
                advance(done)
            if self.processes.stopping():
                return True
        return self.processes.stopping()

    def answer(self, samples: list[Sample]) -> Iterator[int]:
        """Answer those of this process's `samples` that have no answer yet.

        Batches are made of all samples, of every process and answered or not. Otherwise the number of processes or an
        interruption would move a sample into another batch, which in bfloat16 can change its answer. Ends after the
        current batch when a signal came.

        Yields:
            How many more samples are answered, by any process.
        """
        from vizsage.models.memory import memory_reported

        model, config = self.answerer.model, self.answerer.config
        keys = {sample.sample_id: self.keys(self.shown(sample)) for sample in samples}
        done = sum(key in self.store.answered for key in keys.values())
        yield done
        if done == len(samples) or self.processes.stopping():
            return
        batches = model.batches([self.shown(sample) for sample in samples])
        own = self._unanswered(batches, keys)[self.processes.rank :: self.processes.count]
        asked = [batch for batch in own if batch]
        rows_of = Counter(keys.values())
        start = time.monotonic()
        with memory_reported(config, "answering"):
            for batch, answers in zip(asked, model.answer(asked), strict=True):
                seconds, start = (time.monotonic() - start) / len(batch), time.monotonic()
                by_id = {answer.sample_id: answer for answer in answers}
                rows = [_as_row(keys[s.sample_id], by_id[s.sample_id], seconds) for s in batch if s.sample_id in by_id]
                self.store.append(rows)
                for sample in batch:
                    if sample.sample_id in by_id and by_id[sample.sample_id].text is None:
                        refuse_bad_images(sample.images, config)  # a sample that failed otherwise is recorded as failed
                yield sum(rows_of[keys[sample.sample_id]] for sample in batch)
                if self.processes.stopping():
                    return

    def _unanswered(self, batches: list[list[Sample]], keys: Mapping[str, str]) -> list[list[Sample]]:
        """The samples of each batch that have no answer yet.

        The same question on the same image is asked once, in the first batch that has it. Two sampled answers may
        differ, and which of them is used would depend on interruptions and on the number of processes.
        """
        asked: set[str] = set()
        left: list[list[Sample]] = []
        for batch in batches:
            left.append([])
            for sample in batch:
                key = keys[sample.sample_id]
                if key not in asked and key not in self.store.answered:
                    asked.add(key)
                    left[-1].append(sample)
        return left


def _as_row(key: str, answer: Answer, seconds: float) -> KeptAnswer:
    return {
        "key": key,
        "prediction": answer.text,
        "raw_text": answer.raw_text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "error": answer.error,
        "seconds": seconds,
    }
