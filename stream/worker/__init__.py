"""The worker processes. Faust lives here and nowhere else."""
