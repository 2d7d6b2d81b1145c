"""Names and numbers that users pass, checked."""
