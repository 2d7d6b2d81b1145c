"""One step: losses in, a direction in `.grad` and a record out."""
