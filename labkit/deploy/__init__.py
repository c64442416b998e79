"""A measured split as files that start it elsewhere: on Kubernetes, on bare nodes, as plain vLLM commands."""

from labkit.deploy.export import TARGETS, Exported, export_deployment
from labkit.deploy.found import Capacity, FoundSplit, found_split
from labkit.deploy.scaling import Scaled, scaled
from labkit.deploy.settings import Settings

__all__ = ["TARGETS", "Capacity", "Exported", "FoundSplit", "Scaled", "Settings", "export_deployment", "found_split", "scaled"]
