"""VizSage: fine-tune and evaluate vision-language models on image-question-answer data.

    from vizsage import evaluate, load_config, predict, train

Each is imported when it is used first, so that `import vizsage` alone takes no time.
"""

TYPE_CHECKING = False  # typing has it too, but importing that would take most of the time
if TYPE_CHECKING:
    from vizsage.api import evaluate, predict, train
    from vizsage.config import load_config

__version__ = "0.2.0"
__all__ = ["__version__", "evaluate", "load_config", "predict", "train"]
_MODULES = {"load_config": "vizsage.config"} | dict.fromkeys(("evaluate", "predict", "train"), "vizsage.api")


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
