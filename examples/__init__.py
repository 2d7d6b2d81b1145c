"""Runnable examples; nothing in moopt imports them."""
