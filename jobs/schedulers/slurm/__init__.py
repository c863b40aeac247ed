"""Jobs on SLURM, sent with submitit."""
