"""The only package that knows parameters, devices and shards."""

from moopt.gradients.capture import Row
from moopt.gradients.held import HoldingStore
from moopt.gradients.store import GradientStore

__all__ = ["GradientStore", "HoldingStore", "Row"]
