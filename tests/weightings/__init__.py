"""Tests of moopt.weightings: `settings` x `properties` x `tests.cases`."""
