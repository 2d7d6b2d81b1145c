"""Weightings: from the Gramian of the gradients to the weights of a direction."""

# A line here makes a method public and registers it: see `registry`, which comes after them. Their
# order is that of the tables in docs/methods.md.
# isort: off
from moopt.weightings.mgda import MGDA as MGDA
from moopt.weightings.dual_space_mgda import DualSpaceMGDA as DualSpaceMGDA
from moopt.weightings.cr_mogm import CRMOGM as CRMOGM
from moopt.weightings.pcgrad import PCGrad as PCGrad
from moopt.weightings.ngdiff import NGDiff as NGDiff
from moopt.weightings.gru import GRU as GRU
from moopt.weightings.blur import BLUR as BLUR
from moopt.weightings.imtl_g import IMTLG as IMTLG
from moopt.weightings.con_fig import ConFIG as ConFIG
from moopt.weightings.orthogonal_steepest_descent import (
    OrthogonalSteepestDescent as OrthogonalSteepestDescent,
)
from moopt.weightings.hamu import HAMU as HAMU
from moopt.weightings.pcd import PCD as PCD
from moopt.weightings.aligned_mtl import AlignedMTL as AlignedMTL
from moopt.weightings.gradvac import GradVac as GradVac
from moopt.weightings.random_weights import Random as Random
from moopt.weightings.krum import Krum as Krum
from moopt.weightings.ntk import NTK as NTK
from moopt.weightings.db_mtl import DBMTL as DBMTL
from moopt.weightings.grad_norm import GradNorm as GradNorm
from moopt.weightings.mean import Mean as Mean
from moopt.weightings.sum import Sum as Sum
from moopt.weightings.dual_proj import DualProj as DualProj
from moopt.weightings.upgrad import UPGrad as UPGrad
from moopt.weightings.cagrad import CAGrad as CAGrad
from moopt.weightings.nash_mtl import NashMTL as NashMTL
from moopt.weightings.fairgrad import FairGrad as FairGrad
from moopt.weightings.sdmgrad import SDMGrad as SDMGrad
from moopt.weightings.modo import MoDo as MoDo
from moopt.weightings.sdmgrad_stochastic import SDMGradStochastic as SDMGradStochastic
from moopt.weightings.epo import EPO as EPO
from moopt.weightings.pmgda import PMGDA as PMGDA
from moopt.weightings.pmtl import PMTL as PMTL
from moopt.weightings.constant import Constant as Constant

# isort: on
from moopt.records.result import Solved
from moopt.weightings.base import Guarantee, StateEntry, Weighting, WeightingOutput
from moopt.weightings.problem import Problem
from moopt.weightings.registry import WEIGHTINGS, RegisteredWeighting, weighting_from_name

__all__ = [
    *WEIGHTINGS,
    "WEIGHTINGS",
    "Guarantee",
    "Problem",
    "RegisteredWeighting",
    "Solved",
    "StateEntry",
    "Weighting",
    "WeightingOutput",
    "weighting_from_name",
]
