"""Train vizsage-tiny from scratch: `python -m vizsage.demo.tiny.recipe --out DIR`.

First the vision tower learns to recognise what a drawn painting shows, then the whole model learns to write about it.
Needs torch, transformers and Pillow only. Ten minutes on one GPU; hours on a CPU. The README.md here describes how
the weights in the package were made.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch

from vizsage.demo.tiny.architecture import build_model, build_processor, build_tokenizer, save
from vizsage.demo.tiny.material import Schedule, make_material
from vizsage.demo.tiny.pretraining import caption_loss, train_model, train_vision

log = logging.getLogger(__name__)


def run(out: Path, plan: Schedule) -> dict[str, float]:
    """Train and save the model. Returns the caption loss on held-out images, with the image and with a blank."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(plan.seed)
    torch.set_float32_matmul_precision("high")
    tokenizer = build_tokenizer(plan.seed)
    processor = build_processor(tokenizer)
    started = time.monotonic()
    material = make_material("pretrain", plan, plan.scenes, tokenizer)
    held_out = make_material("held-out", plan, 100, tokenizer)
    lengths = material.lengths
    log.info("%d examples of %.0f tokens in %.0f s", len(lengths), lengths.mean(), time.monotonic() - started)
    model = build_model(tokenizer).train()
    model.to(device=device)
    log.info("%d parameters on %s", sum(p.numel() for p in model.parameters()), device)
    pixels = torch.from_numpy(material.pixels).to(device)
    train_vision(model, pixels, material, plan)
    train_model(model, pixels, material, plan)
    model.eval()
    figures = {
        "loss": caption_loss(model, held_out, blank=False),
        "loss_blank": caption_loss(model, held_out, blank=True),
    }
    log.info("held out: %s, %.0f s in all", figures, time.monotonic() - started)
    save(model, processor, out)
    return figures


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train vizsage-tiny from scratch.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights", help="folder for the weights")
    for name, value in vars(Schedule()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(arguments.pop("out"), Schedule(**arguments))


if __name__ == "__main__":
    main()
