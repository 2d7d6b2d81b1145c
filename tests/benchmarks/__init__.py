"""Tests of the benchmarks' harness: what may be printed, and when."""
