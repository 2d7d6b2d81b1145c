"""Testing: cases built from definitions, and the suite that every weighting must pass."""

from moopt.testing.check_weighting import check_weighting
from moopt.testing.one_batch import OneBatch
from moopt.testing.sampling import Case, all_cases, case

__all__ = ["Case", "OneBatch", "all_cases", "case", "check_weighting"]
