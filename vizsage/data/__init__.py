"""From files to model inputs: sources, knowledge, images, prompts, batches."""
