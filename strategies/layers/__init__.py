"""Strategies for each family of torch.nn layers, one file a family."""

from . import (
    activation,
    attention,
    convolution,
    dropout,
    embedding,
    functions,
    linear,
    loss,
    normalisation,
    padding,
    pooling,
    recurrent,
    reshaping,
)
from .kinds import KINDS, Kind, Shape

#: Classes of torch.nn of which there are no nodes, and why.
EXCLUDED = {
    "Module": "the base class: every drawn module is one, and every block of it",
    "Sequential": "a container: blocks and whole modules are drawn as one",
    "ModuleList": "a container: drawn modules hold their layers in one",
    "ModuleDict": "a container: drawn modules hold their layers in one",
    "Container": "deprecated, and nn.Module by another name",
    "RNNBase": "the base class of RNN, GRU and LSTM, with no forward of its own kind",
    "RNNCellBase": "the base class of RNNCell, GRUCell and LSTMCell, with no forward",
    "DataParallel": "hands on to its module where there are not several GPUs",
    "SyncBatchNorm": "trains in a process group on GPUs only; laws on it are stated by hand",
}

__all__ = [
    "EXCLUDED",
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
    "loss",
    "normalisation",
    "padding",
    "pooling",
    "recurrent",
    "reshaping",
]
