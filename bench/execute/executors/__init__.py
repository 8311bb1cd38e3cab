"""Executors of jobs: local workers, Slurm, Ray. The result of a job does not depend on them."""
