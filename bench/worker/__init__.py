"""The process that fits and predicts; it receives a fold without its truth."""
