# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The live lab
#
# A deployment under load, with your hands on it: change the split, the load or the pool while the charts run, pin what you find,
# look into a single slow request, and let the lab try every split.
#
# The workers are real and are started once. Changing the split swaps the router in front of them and reloads no weights; the
# lab says what it will do before, and shows the workers' own counters as proof after. Everything is kept in one run.
# With `engine="dynamo"` workers keep the roles that they start with: each split then starts some workers and drains others.

# %% [markdown]
# Parameters: `None` leaves the choice to the lab. In batch (`labkit run notebooks/02_explore.ipynb`) the steps of `steps` are
# carried out in turn, each pinned, and still figures are left; with `None` the autopilot tries every split of the pool, and says
# which is best.
#
# With `timing` the workers are *simulated*: they compute nothing and take the times of AIConfigurator's estimates for a GPU, of a
# calibration by your own measured runs, or of saved profiles. It needs no GPU, and nothing that it shows is a measurement.

# %% tags=["parameters"]
model = None  # a bundled shape such as "llama-3.1-8b", a folder, or a hub id
engine = None  # "vllm" (the usual one), "dynamo", "mocker" (simulated workers, with timing)
timing = None  # of simulated workers: a GPU "h100_sxm", measured runs ["a", "b"], or a folder of saved profiles
topology = None  # "2A", "4A", "1P1D": the split to begin with
isl = None  # input tokens: 512, or "uniform:100-900"
osl = None  # output tokens
rate = None  # requests per second
tpot_slo_s = 0.05  # time per output token that a good request meets
seed = 0
mode = "auto"  # "live", "batch"; the lab finds out by itself
steps = None  # of the tour: [["2A"], ["1P1D"], ["1P1D", {"rate": 2.0}]]
window_s = 20.0  # seconds of each step that are pinned

# %%
from labkit import Slo
from labkit.dashboard import present
from labkit.experiments import explore
from labkit.lab.presets import suggest
from labkit.whatif import worker_times

# %% [markdown]
# ## Launch
#
# Each worker says how far its start is. Running this cell again closes the lab that is open, and keeps its run.

# %%
times = worker_times(timing, engine)
preset = times.suggest(suggest).vary(model=model, side_a=topology)
preset = times.carried(preset.vary(isl=isl, osl=osl, rate=rate, seed=seed))
print(preset)
work, slo = preset.workload, preset.limits(Slo(tpot_s=tpot_slo_s))
asked = {"engine": preset.engine, "options": preset.options}
exploration = explore(preset.model, preset.side_a, workload=work, slo=slo, **asked)
print(exploration.lab)

# %% [markdown]
# ## Explore
#
# Closing the tab ends nothing: open the notebook again, once it was saved, and the charts are there with their history.
# Interrupting the kernel ends the cell that runs and leaves the lab alone; *Call off* ends a pin or an autopilot that is being
# waited for. *Export page* leaves one HTML file that replays the afternoon.

# %%
present(exploration, mode=mode, steps=steps or (), window_s=window_s)

# %% [markdown]
# ## Done?
#
# Restart the kernel, or run `end(exploration)` (from `labkit.experiments`): workers, router and load end, and the run is closed.
# `labkit runs` lists it and its pins, `labkit compare` sets pins beside each other, `labkit export` takes either away.
