"""Operations on big tensors: one folder per operation, `reference.py` in plain PyTorch."""
