"""From files to model inputs: formats, records, images, descriptions, prompts, batches."""
