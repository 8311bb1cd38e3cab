"""What trains a LightningModule: batches, device, checkpoints, resume, early stopping."""

from bench.training.batches import (
    SectionDataset,
    ShuffledBatches,
    SpotDataset,
    section_loader,
    spot_loader,
)
from bench.training.fitting import learned_sections, seed_batch, train, train_on

__all__ = [
    "SectionDataset",
    "ShuffledBatches",
    "SpotDataset",
    "learned_sections",
    "section_loader",
    "seed_batch",
    "spot_loader",
    "train",
    "train_on",
]
