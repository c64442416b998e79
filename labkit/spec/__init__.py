"""What is asked for: pure data, checked once at the edge. No I/O, no clock."""

from labkit.spec.durations import Durations
from labkit.spec.lengths import Lengths
from labkit.spec.model import SHAPES, Model
from labkit.spec.slo import Slo
from labkit.spec.topology import Group, Role, Topology, splits
from labkit.spec.workload import Workload

__all__ = ["SHAPES", "Durations", "Group", "Lengths", "Model", "Role", "Slo", "Topology", "Workload", "splits"]
