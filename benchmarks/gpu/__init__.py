"""The fused kernels on a card: correctness first, then the sweep, then the goals."""
