"""The cases of the registry, one family of operations per file."""
