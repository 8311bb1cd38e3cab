"""What a dataset is: its card, its sections, their images and patches."""
