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
# # Aggregated against disaggregated
#
# Should prefill and decode run on separate workers, for this model, this traffic and this node? Both ways are measured here
# on the same accelerators, with the same requests, in turn (A B A B …), on real workers.
#
# The workers are started once. Changing the split swaps the router in front of them and reloads no weights (Dynamo's workers
# keep their roles: it starts others there); after each change the workers' own counters must show the new roles, or the run
# stops. With `engine_b` two engines are compared: they take turns on the same accelerators, each launched anew for its turn.

# %% [markdown]
# Parameters: `None` leaves the choice to the lab, which suggests what suits this node. `labkit run notebooks/01_compare.ipynb
# -p repeats=5 -p rate=2.0` sets them in batch.
#
# With `timing` the workers are *simulated*: they compute nothing and take the times of AIConfigurator's estimates for a GPU, of a
# calibration by your own measured runs, or of saved profiles. It needs no GPU, and nothing that it shows is a measurement.

# %% tags=["parameters"]
model = None  # a bundled shape such as "llama-3.1-8b", a folder, or a hub id
engine = None  # "vllm" (the usual one), "dynamo", "mocker" (simulated workers, with timing)
timing = None  # of simulated workers: a GPU "h100_sxm", measured runs ["a", "b"], or a folder of saved profiles
engine_b = None  # of side B, where it is another: "dynamo"; side_b is then side_a by default
side_a = None  # "2A", "2A@tp4"
side_b = None  # "1P1D", "1P@tp4+1D@tp4"
isl = None  # input tokens: 512, or "uniform:100-900"
osl = None  # output tokens
rate = None  # requests per second, Poisson arrivals
duration_s = None  # measure phase of each repeat
repeats = 3  # of each side
tpot_slo_s = 0.05  # time per output token that a good request meets
seed = 0

# %%
from labkit import Lab, Slo
from labkit.experiments import conclude, interleave
from labkit.figures import show
from labkit.lab.presets import suggest
from labkit.whatif import worker_times

# %% [markdown]
# ## What is measured

# %%
times = worker_times(timing, engine)
preset = times.suggest(suggest).vary(model=model, engine_b=engine_b, side_a=side_a, side_b=side_b)
preset = times.carried(preset.vary(isl=isl, osl=osl, rate=rate, duration_s=duration_s, seed=seed))
slo = preset.limits(Slo(tpot_s=tpot_slo_s))
print(preset)

# %% [markdown]
# ## Measure
#
# Each worker says how far its start is. Each re-split says what it did, with the counters as proof. Interrupting the kernel ends
# every worker and keeps what was recorded; closing the tab ends nothing.

# %%
work = preset.workload
asked = {"engine": preset.engine, "options": preset.options, "kind": "compare"}
with Lab(preset.model, preset.side_a, workload=work, slo=slo, **asked) as lab:
    print(lab)
    measurements = interleave(lab, preset.sides, engines=preset.engines, repeats=repeats)

# %% [markdown]
# ## The answer

# %%
conclusion = conclude(lab.run)
print(conclusion)

# %% [markdown]
# ## The evidence
#
# The figures are in the run's folder too, as PNG, SVG and interactive HTML. `labkit show` and `labkit export` read the run again.

# %%
show(lab.run, conclusion.comparison)
