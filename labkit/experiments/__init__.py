"""Questions put to a deployment or to recorded runs, one a module."""

from labkit.experiments.autopilot import autopilot
from labkit.experiments.candidates import Candidate, candidates
from labkit.experiments.choice import Choice, choose
from labkit.experiments.chunking import Chunking
from labkit.experiments.compare import Comparison, compare, compare_runs
from labkit.experiments.conclude import Conclusion, compare_sides, conclude, slo_of
from labkit.experiments.confirm import confirm
from labkit.experiments.diagnosis import Diagnosis, diagnose, diagnose_runs, explain
from labkit.experiments.exploration import Exploration
from labkit.experiments.explore import end, explore
from labkit.experiments.interference_study import InterferenceStudy, study_interference
from labkit.experiments.interleave import interleave
from labkit.experiments.load_step import LoadStep, load_step, measure_load_step
from labkit.experiments.prefill_limits import LimitsTried, prefill_limits, set_prefill_limits, try_prefill_limits
from labkit.experiments.prefill_saturation import PrefillSaturation, sweep_prefill, wide_options
from labkit.experiments.prefill_study import PrefillStudy, study_prefill
from labkit.experiments.roofline import RooflineFound, measure_roofline
from labkit.experiments.scaling import Scaling, measure_scaling, scaling, scaling_axes
from labkit.experiments.side_by_side import SideBySide, side_by_side
from labkit.experiments.side_by_side_text import conditions_text, side_by_side_text
from labkit.experiments.split_search import SplitSearch, search_splits
from labkit.experiments.table import table
from labkit.experiments.tour import tour
from labkit.experiments.until import Narrow
from labkit.experiments.verdict import Verdict, verdict

__all__ = [
    "Candidate",
    "Choice",
    "Chunking",
    "Comparison",
    "Conclusion",
    "Diagnosis",
    "Exploration",
    "InterferenceStudy",
    "LimitsTried",
    "LoadStep",
    "Narrow",
    "PrefillSaturation",
    "PrefillStudy",
    "RooflineFound",
    "Scaling",
    "SideBySide",
    "SplitSearch",
    "Verdict",
    "autopilot",
    "candidates",
    "choose",
    "compare",
    "compare_runs",
    "compare_sides",
    "conclude",
    "conditions_text",
    "confirm",
    "diagnose",
    "diagnose_runs",
    "end",
    "explain",
    "explore",
    "interleave",
    "load_step",
    "measure_load_step",
    "measure_roofline",
    "measure_scaling",
    "prefill_limits",
    "scaling",
    "scaling_axes",
    "search_splits",
    "set_prefill_limits",
    "side_by_side",
    "side_by_side_text",
    "slo_of",
    "study_interference",
    "study_prefill",
    "sweep_prefill",
    "table",
    "tour",
    "try_prefill_limits",
    "verdict",
    "wide_options",
]
