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
# # What a prefill does to the tokens beside it
#
# While a worker computes a prompt, the requests that it answers wait for their next token. How long, and how does it grow with
# the prompt? Four sides get the same requests on the same accelerators: aggregated and disaggregated, each with prompts
# computed in chunks (chunked prefill) and whole.
#
# Worker and prefill of every request are known from the workers' own spans. Long gaps between tokens meet more prefills by their
# length alone, so the plain ratio finds an effect where there is none: the figures here are those of gaps with a prefill at
# their *middle*, at equal decode-batch size, less what prefills shifted in time would show.

# %% [markdown]
# Parameters: `None` leaves the choice to the lab, which suggests what suits this node. `labkit run
# notebooks/07_interference.ipynb -p repeats=3 -p chunk=256` sets them in batch.
#
# With `timing` the workers are *simulated*: they compute nothing and take the times of AIConfigurator's estimates for a GPU, of a
# calibration by your own measured runs, or of saved profiles. It needs no GPU, and nothing that it shows is a measurement.

# %% tags=["parameters"]
model = None  # a bundled shape such as "llama-3.1-8b", a folder, or a hub id
engine = None  # "vllm" (the usual one), "dynamo", "mocker" (simulated workers, with timing)
timing = None  # of simulated workers: a GPU "h100_sxm", measured runs ["a", "b"], or a folder of saved profiles
side_a = None  # aggregated: "2A", "2A@tp4"
side_b = None  # disaggregated: "1P1D", "1P@tp4+1D@tp4"
chunk = None  # most tokens of a step with chunked prefill; must be below the longest prompt
whole = True  # measure whole prompts (chunked prefill off) too
isl = None  # input tokens; various lengths make a curve: "uniform:64-640"
osl = None  # output tokens
rate = None  # requests per second, Poisson arrivals
duration_s = None  # measure phase of each repeat
warmup_s = None  # of the same load before it
repeats = 2  # of each side
tpot_slo_s = 0.05  # the line in the figure
seed = 0

# %%
from labkit import Lab, Slo
from labkit.experiments import Chunking, study_interference
from labkit.figures import show_interference
from labkit.lab.presets import suggest_interference
from labkit.whatif import worker_times

# %% [markdown]
# ## What is measured

# %%
times = worker_times(timing, engine)
preset = times.suggest(suggest_interference).vary(model=model, side_a=side_a, side_b=side_b)
preset = preset.vary(chunk=chunk, isl=isl, osl=osl, rate=rate, seed=seed)
preset = times.carried(preset.vary(duration_s=duration_s, warmup_s=warmup_s))
options, slo = Chunking(preset.chunk).options(preset.options), preset.limits(Slo(tpot_s=tpot_slo_s))
print(preset)

# %% [markdown]
# ## Measure
#
# Splits follow each other in turn by swapping the router (with `engine="dynamo"`, by starting workers and draining others). The
# other chunk setting restarts the workers once. Interrupting the kernel ends every worker and keeps what was recorded.

# %%
first, work = preset.topologies[0], preset.workload
asked = {"engine": preset.engine, "options": options, "kind": "interference"}
with Lab(preset.model, first, workload=work, slo=slo, **asked) as lab:
    sizes = {"chunk": preset.chunk, "whole": whole, "repeats": repeats}
    study = study_interference(lab, preset.topologies, **sizes)

# %% [markdown]
# ## The answer
#
# On a dedicated decode worker the number is undefined, not 0: nothing is prefilled there. What both kinds of split can be
# compared on is prefills anywhere in the deployment.

# %%
print(study.keep(lab.run))

# %% [markdown]
# ## The evidence
#
# The figures are in the run's folder too, as PNG, SVG and interactive HTML; `labkit show` and `labkit export` read the run again.

# %%
show_interference(lab.run, study)
