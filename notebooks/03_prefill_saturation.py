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
# # Where prefill saturates
#
# A prefill step computes whole prompts together. Up to some size a larger step costs hardly more time; beyond it, twice the
# tokens take twice as long, and every prompt waits for the others. The smallest step that saturates the device gives the
# throughput *and* the shortest time to first token. This notebook finds it on a real worker, for several prompt lengths, shows
# where prefill and decode lie on this device's roofline, and sets the finding as the worker's flags, with TTFT before and after.
#
# The batch of every step is known from the worker's own request spans, its time from the engine's own clock. The peaks of the
# roofline are measured on this device, not taken from a data sheet.

# %% [markdown]
# Parameters: `None` leaves the choice to the lab, which suggests what suits this node. `labkit run
# notebooks/03_prefill_saturation.ipynb -p repeats=5` sets them in batch.
#
# With `timing` the worker is *simulated*, and nothing of this can be measured: it tells no spans and has no peaks. The notebook
# says what the timing profile itself holds instead.

# %% tags=["parameters"]
model = None  # a bundled shape such as "llama-3.1-8b", a folder, or a hub id
engine = None  # "vllm" (the usual one), "dynamo", "mocker" (simulated workers, with timing)
timing = None  # of simulated workers: a GPU "h100_sxm", measured runs ["a", "b"], or a folder of saved profiles
isls = None  # prompt lengths: [32, 128, 512]
most_tokens = None  # largest step of several prompts
repeats = 4  # of each batch
steps = 3  # of each batch in each repeat
set_isl = None  # the prompt length whose knee is set; the longest that has one
tries = 3  # repeats of TTFT before and after; 0 leaves the flags alone
bursts = 10  # of prompts in each of them

# %%
from labkit import Lab
from labkit.experiments import study_prefill, wide_options
from labkit.figures import show_saturation
from labkit.lab.presets import suggest_sweep
from labkit.whatif import worker_times

# %% [markdown]
# ## What is measured

# %%
times = worker_times(timing, engine)
sweep = times.suggest(suggest_sweep).vary(model=model, isls=isls, most_tokens=most_tokens)
sweep = times.carried(sweep)
options = wide_options(sweep.isls, most_tokens=sweep.most_tokens, options=sweep.options)
print(sweep)

# %% [markdown]
# ## Measure
#
# One worker; every worker of a pool is started equal, so that it tells for all. A closed loop of k + 1 requests makes k prompts
# meet in one step, again and again. Interrupting the kernel ends every process and keeps what was recorded.

# %%
asked = {"engine": sweep.engine, "options": options, "kind": "prefill"}
with Lab(sweep.model, "1A", workload=sweep.workload, **asked) as lab:
    sizes = {"repeats": repeats, "steps": steps, "tries": tries, "bursts": bursts}
    study = study_prefill(lab, sweep, isl=set_isl, **sizes)

# %% [markdown]
# ## The answer

# %%
print(study.keep(lab.run))

# %% [markdown]
# ## The evidence
#
# The figures are in the run's folder too, as PNG, SVG and interactive HTML.

# %%
show_saturation(lab.run, study.saturation, study.roofline, study.tried)

# %% [markdown]
# ## Set it elsewhere
#
# In a lab with prefill workers, such as `Lab(model, "1P3D")`, `set_prefill_limits(lab, study.saturation)` (from
# `labkit.experiments`) restarts those alone with the knee as their limits, on tokens and on requests; decode workers keep theirs.
# The worker above is an aggregated one. Its TTFT was measured with the knee as a limit on tokens, and with no tighter one on
# requests than the engine asks for, as that would also cap how many it decodes. The answer names both pairs of flags.
