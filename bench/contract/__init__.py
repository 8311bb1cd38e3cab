"""What every method promises, as checks that run on any method, whoever wrote it."""
