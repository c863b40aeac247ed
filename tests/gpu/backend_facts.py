"""What a backend makes of a small model: `python -m tests.gpu.backend_facts BACKEND FOLDER settings.json`.

Runs in a separate process, because unsloth patches transformers in the process that imports it. Writes facts.pt and an
adapter into FOLDER.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vizsage.config import Config, build_config
from vizsage.models.loading.backends import load_base, prepare


def main() -> None:
    """Settings, before anything that unsloth patches is imported; then the facts."""
    backend, folder, settings = sys.argv[1:]
    config = build_config({**json.loads(Path(settings).read_text()), "backend": backend})
    prepare(config)
    write_facts(config, Path(folder))


def write_facts(config: Config, folder: Path) -> None:
    """Loss and gradients, before and after answering; names and first weights of the adapter; the fingerprint."""
    import torch

    from tests.families.data import randomise_adapter, samples
    from vizsage.data.collate import TrainCollator
    from vizsage.data.prompts import fingerprint
    from vizsage.models.adapters.lora import add_adapter, save_adapter
    from vizsage.models.generation import generate_answers
    from vizsage.models.shared_image.sharing import share_images
    from vizsage.training.loss import on_device, summed_loss

    loaded = load_base(config)
    model = add_adapter(loaded, config)
    randomise_adapter(model)
    save_adapter(model, loaded.processor, config, folder / "adapter", loaded.base_identity)
    model.train()

    def step(*, share: bool) -> tuple[float, dict[str, Any]]:
        sharing = share_images(model.get_base_model(), loaded.processor, config) if share else None
        assert (sharing is not None) == share, "this family shares images"
        batch = TrainCollator(loaded.processor, config, share_images=share)(samples())
        loss, _ = summed_loss(model, on_device(batch, sharing, model.device), sharing)
        loss.backward()
        gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return loss.item(), gradients

    facts: dict[str, Any] = {"plain": step(share=False), "shared": step(share=True)}
    answers = generate_answers(
        model, loaded.processor, samples(), config.model_copy(update={"eval_batch_size": 4}), greedy=True
    )
    facts["answers"] = [answer.token_ids for answer in answers]
    assert model.training
    facts |= {"plain again": step(share=False), "shared again": step(share=True)}
    facts["fingerprint"] = fingerprint(loaded.processor, config, loaded.base_identity)
    torch.save(facts, folder / "facts.pt")


if __name__ == "__main__":
    main()
