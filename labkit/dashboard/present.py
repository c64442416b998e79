"""One notebook, two modes: the explorer for a person, a scripted tour with still figures in batch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from IPython.core.getipython import get_ipython

from labkit.batch import is_batch
from labkit.dashboard.exploration_page import save_exploration
from labkit.dashboard.explorer import Explorer
from labkit.experiments.autopilot import autopilot
from labkit.experiments.exploration import Exploration
from labkit.experiments.explore import end
from labkit.experiments.tour import Step, tour
from labkit.figures.show import show_exploration
from labkit.kernel_extension import load_ipython_extension

#: A notebook breaks longer lines in the middle of a word.
_WIDTH: Final = 96


def present(
    exploration: Exploration, *, mode: str = "auto", steps: Sequence[Step] = (), window_s: float = 20.0, settle_s: float = 5.0
) -> Explorer | None:
    """Give the exploration to the person, or make a tour of it.

    Live, the explorer is returned, to be displayed by the cell, and the lab stays open. In batch the steps are carried out, each
    with a pin, or every split of the pool is tried by the autopilot, whose choice is printed. The figures are displayed and kept
    in the run's folder beside the page that replays it, and the lab is closed.

    Args:
        exploration: its load runs.
        mode: ``auto``, ``live`` or ``batch``.
        steps: of the tour; without any, the autopilot flies.
        window_s: seconds of each step, or split, that are pinned.
        settle_s: seconds between a change and those, on a tour.

    Raises:
        LabError: a step failed. The lab is closed then, with its run kept.
    """
    if not is_batch(mode):
        load_ipython_extension(get_ipython())  # in kernels of other environments too
        return Explorer(exploration)
    lab = exploration.lab
    try:
        if steps:
            pins = tour(exploration, steps, window_s=window_s, settle_s=settle_s)
        else:
            choice = autopilot(exploration, window_s=window_s, tell=print).result()
            pins = list(choice.pins)
            print("\n".join(textwrap.fill(line, _WIDTH, subsequent_indent="    ") for line in str(choice).splitlines()))
        exploration.order(exploration.wind_down).result()
    except BaseException as error:
        exploration.close()
        lab.close(error)
        raise
    end(exploration)
    save_exploration(lab.run, pins=pins)
    show_exploration(lab.run, pins)
    return None
