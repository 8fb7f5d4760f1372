"""Strategies for each family of torch.nn layers, one file a family."""

from . import (
    activation,
    attention,
    convolution,
    dropout,
    embedding,
    functions,
    linear,
    normalisation,
    pooling,
    recurrent,
)
from .kinds import KINDS, Kind, Shape

__all__ = [
    "KINDS",
    "Kind",
    "Shape",
    "activation",
    "attention",
    "convolution",
    "dropout",
    "embedding",
    "functions",
    "linear",
    "normalisation",
    "pooling",
    "recurrent",
]
