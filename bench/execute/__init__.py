"""From a request to finished folds: the plan of jobs, one job, and who runs it."""
