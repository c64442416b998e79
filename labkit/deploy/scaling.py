"""How many workers of each role an asked load needs, from what the split was measured to serve."""

from __future__ import annotations

import math
from dataclasses import dataclass

from labkit.deploy.found import FoundSplit
from labkit.errors import SpecError
from labkit.spec import Topology
from labkit.spec.topology import Group


@dataclass(frozen=True, slots=True)
class Scaled:
    """A split in the size that is deployed.

    Attributes:
        topology: the workers.
        text: how their number came about, with the assumption that it rests on.
        warnings: what speaks against it.
    """

    topology: Topology
    text: str
    warnings: tuple[str, ...] = ()


def scaled(found: FoundSplit, *, request_rate: float | None = None, replicas: int | None = None, to_gpu: bool = True) -> Scaled:
    """The split for a load, or so many copies of it; as it was measured without either.

    The workers of each role are multiplied by asked load / measured load and rounded up. The measured load is the lower end of
    its interval. That twice the workers serve twice the load is an assumption.

    Args:
        found: the split as measured.
        request_rate: requests per second that are to be served.
        replicas: copies of the split.
        to_gpu: whether the workers will run on GPUs.

    Raises:
        SpecError: a number that is not above 0, both of them, more workers than a topology may have, or a rate where nothing
            says what the split serves there.
    """
    if request_rate is not None and replicas is not None:
        raise SpecError("a request rate and a number of replicas are given", remedy="give one of them")
    if replicas is not None:
        if replicas < 1:
            raise SpecError(f"replicas = {replicas} is not above 0", remedy="give 1 or more copies of the split")
        text = (
            "as measured"
            if replicas == 1
            else f"{replicas} copies of {found.topology}, as asked for; they were not measured together"
        )
        return Scaled(_times(found.topology, float(replicas)), text)
    if request_rate is None:
        return Scaled(found.topology, "as measured")
    if not (math.isfinite(request_rate) and request_rate > 0):
        raise SpecError(f"request rate {request_rate:g} is not above 0", remedy="give requests per second, such as 40")
    if found.capacity is None:
        raise SpecError(
            f"what {found.topology} serves within an SLO was not measured by run {found.run}",
            remedy="give a number of copies with --replicas, or measure it under an SLO",
        )
    if to_gpu and not found.on_gpu:
        raise SpecError(
            f"{found.topology} was measured on CPU cores, which says nothing of what it serves on GPUs",
            remedy="give a number of copies with --replicas, or measure it on GPUs",
        )
    factor = request_rate / found.capacity.sure
    topology = _times(found.topology, factor)
    text = (
        f"for {request_rate:g} req/s: the workers of {found.topology} × {factor:.3g} (asked / lower end of what it was measured "
        "to serve), rounded up for each role. ASSUMED: what is served grows linearly with workers, and requests stay as measured"
    )
    others = () if topology == found.topology else (f"{topology} itself was not measured: {found.topology} was",)
    return Scaled(topology, text, others)


def _times(topology: Topology, factor: float) -> Topology:
    # A rounding error of the division must not cost a worker.
    return Topology(Group(max(math.ceil(round(group.count * factor, 9)), 1), group.role, group.tp) for group in topology.groups)
