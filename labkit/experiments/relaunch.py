"""Another model or engine in the place of what serves, as an order of an exploration; where it fails, that one comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.lab.launch import Launch
from labkit.serve.patience import CalledOff, Closed
from labkit.spec import Model, Topology

if TYPE_CHECKING:
    from labkit.experiments.exploration import Exploration


def relaunch(exploration: Exploration, model: Model | str, topology: Topology | str | None, engine: str | None) -> None:
    """Close the lab and launch another; what is known to be impossible changes nothing.

    Raises:
        LabError: it could not be launched, or was called off. The lab before was launched again then, unless what came up was
            closed on purpose, or the exploration was.
    """
    launch, back = exploration.plan_launch(model, topology, engine=engine), Launch.of(exploration.lab)
    exploration.say("doing", launch.text)
    try:
        exploration.launch_now(launch)
    except Closed:
        raise
    except LabError as error:
        if exploration.closed:
            raise
        why = f"{launch.model.name} could not be launched: {error.what}; {back.model.name} is launched again"
        exploration.say("doing" if isinstance(error, CalledOff) else "failed", why)
        exploration.launch_now(back)
        raise
