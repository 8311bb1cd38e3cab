"""MLflow: what is uploaded of stored runs, and what its own pages show of them."""
