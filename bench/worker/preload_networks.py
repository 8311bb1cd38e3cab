"""Imported by the server where networks will be fitted: seconds once instead of for each fold."""

import gc

import lightning.pytorch
import timm
import torch
import torchvision.transforms.v2

import bench.training.fitting

gc.freeze()  # as in preload_basics

__all__ = ["bench", "lightning", "timm", "torch", "torchvision"]
