"""The only package that knows parameters, devices and shards."""

from moopt.gradients.capture import resume_row, set_aside_gradients, take_gradients
from moopt.gradients.store import GradientStore

__all__ = ["GradientStore", "resume_row", "set_aside_gradients", "take_gradients"]
