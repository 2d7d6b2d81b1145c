"""The optimizer around a step, and the same step without one."""
