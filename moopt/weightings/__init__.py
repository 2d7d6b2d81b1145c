"""Weightings: from the Gramian of the gradients to the weights of a direction."""

from moopt.records.result import Solved
from moopt.weightings.aligned_mtl import AlignedMTL
from moopt.weightings.base import Guarantee, StateEntry, Weighting, WeightingOutput
from moopt.weightings.blur import BLUR
from moopt.weightings.cagrad import CAGrad
from moopt.weightings.con_fig import ConFIG
from moopt.weightings.constant import Constant
from moopt.weightings.cr_mogm import CRMOGM
from moopt.weightings.db_mtl import DBMTL
from moopt.weightings.dual_proj import DualProj
from moopt.weightings.dual_space_mgda import DualSpaceMGDA
from moopt.weightings.epo import EPO
from moopt.weightings.fairgrad import FairGrad
from moopt.weightings.grad_norm import GradNorm
from moopt.weightings.gradvac import GradVac
from moopt.weightings.gru import GRU
from moopt.weightings.hamu import HAMU
from moopt.weightings.imtl_g import IMTLG
from moopt.weightings.krum import Krum
from moopt.weightings.mean import Mean
from moopt.weightings.mgda import MGDA
from moopt.weightings.modo import MoDo
from moopt.weightings.nash_mtl import NashMTL
from moopt.weightings.ngdiff import NGDiff
from moopt.weightings.ntk import NTK
from moopt.weightings.orthogonal_steepest_descent import OrthogonalSteepestDescent
from moopt.weightings.pcd import PCD
from moopt.weightings.pcgrad import PCGrad
from moopt.weightings.pmgda import PMGDA
from moopt.weightings.pmtl import PMTL
from moopt.weightings.problem import Problem
from moopt.weightings.random_weights import Random
from moopt.weightings.registry import WEIGHTINGS, RegisteredWeighting, weighting_from_name
from moopt.weightings.sdmgrad import SDMGrad
from moopt.weightings.sdmgrad_stochastic import SDMGradStochastic
from moopt.weightings.sum import Sum
from moopt.weightings.upgrad import UPGrad

__all__ = [
    "BLUR",
    "CRMOGM",
    "DBMTL",
    "EPO",
    "GRU",
    "HAMU",
    "IMTLG",
    "MGDA",
    "NTK",
    "PCD",
    "PMGDA",
    "PMTL",
    "WEIGHTINGS",
    "AlignedMTL",
    "CAGrad",
    "ConFIG",
    "Constant",
    "DualProj",
    "DualSpaceMGDA",
    "FairGrad",
    "GradNorm",
    "GradVac",
    "Guarantee",
    "Krum",
    "Mean",
    "MoDo",
    "NGDiff",
    "NashMTL",
    "OrthogonalSteepestDescent",
    "PCGrad",
    "Problem",
    "Random",
    "RegisteredWeighting",
    "SDMGrad",
    "SDMGradStochastic",
    "Solved",
    "StateEntry",
    "Sum",
    "UPGrad",
    "Weighting",
    "WeightingOutput",
    "weighting_from_name",
]
