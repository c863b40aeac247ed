"""The name of the attention function of each part of a model.

transformers keeps it in a private attribute of a configuration. Its public `set_attn_implementation` warns and changes
nothing where it does not recognise the source of a model, such as code that unsloth generated. This module alone uses
the attribute.
"""

from __future__ import annotations

from typing import Any, cast


def attention_of(config: Any) -> str | None:
    """The name in `config`, the configuration of a model or of one of its parts."""
    return cast("str | None", config._attn_implementation)


def language_attention(base: Any) -> str | None:
    """The name that the language model of `base` uses."""
    return attention_of(base.config.get_text_config())


def set_attention(config: Any, name: str) -> None:
    """Let the part of a model with `config` use the attention function `name`, which is registered already."""
    config._attn_implementation = name
