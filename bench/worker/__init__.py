"""The process that fits and predicts: it is handed a fold without its truth."""
