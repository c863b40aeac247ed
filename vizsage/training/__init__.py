"""Fine-tuning: the run, its checkpoints, its interruption."""
