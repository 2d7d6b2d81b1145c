"""ConeProjection: the base of methods that project gradients onto their dual cone."""

import dataclasses

from moopt.settings.fields import integer, number, per_objective
from moopt.settings.preference import Preference
from moopt.solvers.dual_cone import dual_cone
from moopt.weightings.base import Guarantee, Problem, Solved, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConeProjection(Weighting):
    """The base of methods that project gradients onto their dual cone, weighted by a preference."""

    preference: Preference | None = per_objective()
    tol: float = number(1e-10, "in (0, 1)")
    max_iter: int | None = integer(None, least=1)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.NON_CONFLICTING, Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.preference is None:
            promises |= {Guarantee.PERMUTATION_EQUIVARIANT, Guarantee.IDEMPOTENT}
        return frozenset(promises)

    def projected(self, problem: Problem, *, separate: bool) -> Solved:
        """The solver's weights, of each gradient by itself or of their preferred combination."""
        return dual_cone(
            problem.cosines,
            problem.norms,
            problem.vector(self.preference, self.name),
            separate=separate,
            tol=self.tol,
            max_iter=self.max_iter,
            noise=problem.noise,
        )
