"""What tests/test_private_names.py has to notice."""

from __future__ import annotations

from typing import Any

from transformers import Trainer


class Overriding(Trainer):
    """Overrides a private method of its base, and uses an attribute that instances of it have."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._own_name = self._tr_loss
