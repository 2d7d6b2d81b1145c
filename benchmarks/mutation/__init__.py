"""Mutation testing of the solvers and the weightings: `python -m benchmarks.mutation`."""
