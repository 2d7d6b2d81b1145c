"""Unlearning in a small language model, end to end and offline."""
