"""Imported by the server where networks will be fitted: seconds once instead of for each fold."""

import lightning.pytorch
import timm
import torch
import torchvision.transforms.v2

import bench.training.fitting

__all__ = ["bench", "lightning", "timm", "torch", "torchvision"]
