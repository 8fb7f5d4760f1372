"""What a process that judges laws sets up before anything is measured."""

from __future__ import annotations

import warnings

import torch

from oracles.subject import quiet


def prepare() -> None:
    """One thread, float32 that means float32 on every device, and no warnings of torch."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    warnings.filterwarnings("ignore")
    quiet()
