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
# # What if there were other GPUs, or a thousand of them?
#
# Nothing is measured on a GPU here. AIConfigurator, a model of serving made of kernels timed on the GPU that is asked about, says
# what single workers do; the lab composes them into aggregated and disaggregated splits of up to 1,000 GPUs, finds the best of
# each kind under an SLO, and maps where disaggregation wins. The published claims that need other GPUs than these are recomputed.
#
# Every number is a *projection*. Where your own runs measured the same kind of GPU, they calibrate it: fitted to some runs,
# judged by others, and the error stands beside every number. Beyond what was measured it is refused, unless you ask for it.

# %% [markdown]
# Parameters: `None` leaves the choice to the lab. `labkit run notebooks/05_scale_out.ipynb -p gpus=64 -p tpot_slo_s=0.015` sets
# them in batch.

# %% tags=["parameters"]
model = "llama-3.1-70b-fp8"  # a bundled shape, a folder with config.json, or a hub id
system = "h100_sxm"  # the GPU; a wrong name lists those there are timings of
engine = "vllm"  # whose kernels were timed: vllm, trtllm or sglang; Dynamo's workers are vLLM's
gpus = 16  # up to 1,000
isl = 3000  # input tokens
osl = 150  # output tokens
ttft_slo_s = 1.0  # time to first token
tpot_slo_s = 0.020  # time per output token
tps = None  # TP degrees that workers may have: [1, 2, 4, 8]
isls = None  # of the map of lengths: [512, 2048, 8192]; [] leaves the map out
osls = None  # of the map of lengths: [128, 512]
ttfts_s = None  # of the map of limits: [0.5, 1.0]
tpots_s = None  # of the maps of limits and of models: [0.010, 0.020, 0.050]
models = None  # of the map of models, small to large; [] leaves the map out
claims = True  # recompute the published claims
runs = None  # ids of measured runs to calibrate by; every one of the results folder by default
held_out = None  # of these, which to judge by; each in turn by default
extrapolate = False  # project beyond what was measured
second_opinion_s = None  # seconds of simulated load on each of the best splits; the lab's choice by default, 0 leaves it out
second_opinion_load = 0.8  # share of the projected rate that is sent

# %%
from labkit.figures import show_second_opinion, show_whatif
from labkit.whatif import Question, ask_whatif, second_opinion

# %% [markdown]
# ## What is asked

# %%
slo = {"ttft_s": ttft_slo_s, "tpot_s": tpot_slo_s}
grids = {"isls": isls, "osls": osls, "ttfts_s": ttfts_s, "tpots_s": tpots_s, "models": models}
hardware = {"system": system, "engine": engine, "gpus": gpus, "tps": tps}
question = Question.of(model, isl=isl, osl=osl, claims=claims, **slo, **hardware, **grids)
print(question)

# %% [markdown]
# ## Project
#
# What an earlier run has asked is not asked again.

# %%
run, found = ask_whatif(question, runs=runs, held_out=held_out, extrapolate=extrapolate)

# %% [markdown]
# ## The answer

# %%
print(found)

# %% [markdown]
# ## The evidence
#
# The figures are in the run's folder too, as PNG, SVG and interactive HTML; `labkit export` draws them again.

# %%
show_whatif(run, found)

# %% [markdown]
# ## A second opinion
#
# The projection knows no arrivals. Here simulated workers (Dynamo's mocker) take the projected time for each step, and the lab's
# own load comes at random times: what queues cost is *simulated*, beside the static estimate for the same rate. Where the fleet
# is too large for this machine, fewer workers at the same load each, or slow motion, stand for it, and it says so.

# %%
opinion = second_opinion(run, found, seconds=second_opinion_s, load=second_opinion_load)

# %%
print(opinion)

# %%
show_second_opinion(run)
