"""Where jobs run: local workers, Slurm, Ray. What a job computes does not depend on it."""
