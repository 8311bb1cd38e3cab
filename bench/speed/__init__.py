"""How close training, prediction and retrieval come to what the machine can do."""
