"""The contract of methods, as checks that run on any method."""
