"""Plain data about a step: how it ended, its weights, and what it saw."""
