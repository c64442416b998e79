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
# # Do prefill and decode scale independently?
#
# The claim: *prefill and decode workers scale independently*. First x of xPyD is varied with y fixed, then y with x fixed, all
# under the same load: a prefill worker more should shorten the time to first token and leave the gaps between tokens alone, a
# decode worker more the other way round. Then the load steps up, and the lab shifts a worker from decode to prefill and back
# while it runs.
#
# One pool serves all of it. A split of fewer workers leaves the others warm and unused, so that nothing is restarted: every split
# follows the one before by swapping the router, and gets the same requests. With `engine="dynamo"` workers keep the roles that
# they start with and none is left unused: each split starts some and drains others, and a shift takes as long as a start.

# %% [markdown]
# Parameters: `None` leaves the choice to the lab, which suggests what suits this node. `labkit run
# notebooks/08_independent_scaling.ipynb -p repeats=5 -p rate=2.5` sets them in batch.
#
# With `timing` the workers are *simulated*: they compute nothing and take the times of AIConfigurator's estimates for a GPU, of a
# calibration by your own measured runs, or of saved profiles. It needs no GPU, and nothing that it shows is a measurement.

# %% tags=["parameters"]
model = None  # a bundled shape such as "llama-3.1-8b", a folder, or a hub id
engine = None  # "vllm" (the usual one), "dynamo", "mocker" (simulated workers, with timing)
timing = None  # of simulated workers: a GPU "h100_sxm", measured runs ["a", "b"], or a folder of saved profiles
workers = None  # of the pool: 3 or more
isl = None  # input tokens: 256, or "uniform:100-400"
osl = None  # output tokens
rate = None  # requests per second of the fixed load, Poisson arrivals
duration_s = None  # of each measurement of the fixed load
warmup_s = None  # of the same load before each measurement
ttft_slo_s = None  # time to first token that a good request meets
tpot_slo_s = None  # time per output token that a good request meets
repeats = 3  # of each split under the fixed load, in turn
step_rates = None  # requests per second outside of the load step and within it: [1.5, 4.5]
step_at_s = None  # when the step begins, when it ends, and when the load does: [6, 16, 22]
step_repeats = 3  # of the load step with the shift and without it, in turn
bucket_s = 3.0  # of goodput over time
seed = 0

# %%
from labkit import Lab
from labkit.experiments import measure_load_step, measure_scaling
from labkit.figures import show_scaling
from labkit.lab.presets import suggest_scaling
from labkit.whatif import worker_times

# %% [markdown]
# ## What is measured

# %%
times = worker_times(timing, engine)
preset = times.suggest(suggest_scaling).vary(model=model, workers=workers)
preset = preset.vary(isl=isl, osl=osl, rate=rate)
preset = preset.vary(duration_s=duration_s, warmup_s=warmup_s, seed=seed)
preset = preset.vary(ttft_slo_s=ttft_slo_s, tpot_slo_s=tpot_slo_s)
preset = times.carried(preset.vary(step_rates=step_rates, step_at_s=step_at_s))
print(preset)

# %% [markdown]
# ## Measure
#
# Interrupting the kernel ends every worker and keeps what was recorded.

# %%
work, slo = preset.workload, preset.slo
asked = {"engine": preset.engine, "options": preset.options, "kind": "scaling"}
with Lab(preset.model, preset.pool, workload=work, slo=slo, **asked) as lab:
    found = measure_scaling(lab, repeats=repeats)
    sizes = {"repeats": step_repeats, "bucket_s": bucket_s}
    stepped = measure_load_step(lab, workload=preset.step, calm=preset.pool, **sizes)

# %% [markdown]
# ## The answer: x and y, one at a time

# %%
print(found)

# %% [markdown]
# ## The answer: a shift while the load steps

# %%
print(stepped)

# %% [markdown]
# ## The evidence
#
# The figures are in the run's folder too, as PNG, SVG and interactive HTML.

# %%
show_scaling(lab.run, found, stepped)
