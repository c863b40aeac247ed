"""VizSage: fine-tune and evaluate vision-language models on image-question-answer data."""

__version__ = "0.1.0"
