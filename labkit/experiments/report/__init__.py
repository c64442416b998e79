"""A report on any set of runs: what they measured, and what they say of each claim under test."""

from labkit.experiments.report.claims import CLAIMS, Claim, Evidence, Judged, Outcome
from labkit.experiments.report.report import Report, pick_runs, report, unread_runs

__all__ = ["CLAIMS", "Claim", "Evidence", "Judged", "Outcome", "Report", "pick_runs", "report", "unread_runs"]
