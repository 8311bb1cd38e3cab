"""Execution of a request: the plan of jobs, one job, and the executors that run it."""
