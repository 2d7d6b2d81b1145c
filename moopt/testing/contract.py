"""The contract: one check per rule that every weighting obeys, whatever it guarantees."""

from collections.abc import Callable

from moopt.testing.directions import Build
from moopt.testing.form_rules import (
    check_batch,
    check_determinism,
    check_output,
    check_types,
)
from moopt.testing.influence_rules import (
    check_auxiliary_rows,
    check_mask_equals_dropping,
    check_needs,
    check_non_finite,
    check_nothing_active,
)
from moopt.testing.sampling import Case
from moopt.testing.state_rules import check_state_round_trip

CONTRACT: dict[str, Callable[[Build, Case], None]] = {
    "output": check_output,
    "mask equals dropping": check_mask_equals_dropping,
    "nothing active": check_nothing_active,
    "types": check_types,
    "batch": check_batch,
    "auxiliary rows": check_auxiliary_rows,
    "determinism": check_determinism,
    "state round trip": check_state_round_trip,
    "non-finite": check_non_finite,
    "needs": check_needs,
}
"""Rule -> its check."""
