"""Published numbers on each dataset, with their sources: one CSV file a dataset."""
