"""What must be true: the laws of PyTorch's modes, and the kernel that judges them."""

VERSION = "0.1.0"
