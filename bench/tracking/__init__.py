"""MLflow: upload of stored runs, and their presentation on its pages."""
