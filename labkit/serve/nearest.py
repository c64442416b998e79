"""The split closest to one that is impossible."""

from __future__ import annotations

from collections.abc import Callable

from labkit.spec import Topology
from labkit.spec.topology import Group

_MOST_CANDIDATES = 5000


def nearest(wanted: Topology, possible: Callable[[Topology], bool]) -> Topology | None:
    """Fewest workers or TP steps less, found breadth first."""
    seen, todo = {wanted}, [wanted]
    for candidate in todo:
        if len(seen) > _MOST_CANDIDATES:
            return None
        for index, group in enumerate(candidate.groups):
            fewer = [Group(group.count - 1, group.role, group.tp)] if group.count > 1 else []
            narrower = [Group(group.count, group.role, group.tp - 1)] if group.tp > 1 else []
            for smaller in (*fewer, *narrower):
                groups = [*candidate.groups]
                groups[index] = smaller
                following = Topology(groups)
                if following not in seen:
                    if possible(following):
                        return following
                    seen.add(following)
                    todo.append(following)
    return None
