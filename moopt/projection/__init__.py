"""Gradient projection on tensors, lists and named dictionaries of tensors."""

from moopt.projection.gradient_basis import GradientBasis
from moopt.projection.project_conflicts import project_conflicts, project_conflicts_
from moopt.projection.project_onto_dual_cone import (
    DualConeProjection,
    project_onto_dual_cone,
    project_onto_dual_cone_,
)
from moopt.projection.project_out import (
    project_onto_span,
    project_onto_span_,
    project_out,
    project_out_,
)
from moopt.projection.rescale import rescale, rescale_

__all__ = [
    "DualConeProjection",
    "GradientBasis",
    "project_conflicts",
    "project_conflicts_",
    "project_onto_dual_cone",
    "project_onto_dual_cone_",
    "project_onto_span",
    "project_onto_span_",
    "project_out",
    "project_out_",
    "rescale",
    "rescale_",
]
