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
# # Which split serves most?
#
# Every split of so many accelerators, aggregated and disaggregated, is driven with rising load until fewer requests than asked
# for meet the SLO. The better half is looked at again and longer, and the answer is held against the best split of the other
# kind: in turn, under the same new requests.
#
# The pool stays warm: splits of the same workers follow each other by swapping the router. Only another TP degree or chunk size
# starts workers again. A trial that an earlier run has made under the same conditions is not made again, so a search that was
# stopped goes on where it was. With `engine="dynamo"` workers keep the roles that they start with: each other split then starts
# some and drains others.

# %% [markdown]
# Parameters: `None` leaves the choice to the lab, which suggests what suits this node. `labkit run
# notebooks/04_split_search.ipynb -p accelerators=8 -p 'tps=[1, 2, 4]' -p 'chunks=[512, 2048]'` sets them in batch.
#
# With `timing` the workers are *simulated*: they compute nothing and take the times of AIConfigurator's estimates for a GPU, of a
# calibration by your own measured runs, or of saved profiles. It needs no GPU, and nothing that it shows is a measurement.

# %% tags=["parameters"]
model = None  # a bundled shape such as "llama-3.1-8b", a folder, or a hub id
engine = None  # "vllm" (the usual one), "dynamo", "mocker" (simulated workers, with timing)
timing = None  # of simulated workers: a GPU "h100_sxm", measured runs ["a", "b"], or a folder of saved profiles
accelerators = None  # that every split holds
tps = None  # TP degrees that workers may have: [1, 2, 4]
chunks = None  # chunk sizes that aggregated splits are tried with beside the default: [512, 2048]
isl = None  # input tokens: 512, or "uniform:100-900"
osl = None  # output tokens
rate = None  # requests per second to begin with, Poisson arrivals
ttft_slo_s = None  # time to first token that a good request meets
tpot_slo_s = None  # time per output token that a good request meets
share = 0.9  # of the requests that must be good for a load to count as served
seconds = None  # of a trial in each round: [8, 16]
repeats = 2  # of the best split and the other kind's best, in turn; 0 confirms nothing
export_to = None  # the best split as files for other machines: "dynamo-k8s", "dynamo-shell" or "vllm-shell"
request_rate = None  # that these are to serve, in requests per second; None: as many workers as measured
seed = 0

# %%
from labkit import Lab
from labkit.deploy import export_deployment
from labkit.experiments import candidates, confirm, explain, search_splits
from labkit.figures import show_search
from labkit.lab.presets import suggest_search
from labkit.whatif import worker_times

# %% [markdown]
# ## What is searched

# %%
times = worker_times(timing, engine)
preset = times.suggest(suggest_search).vary(model=model, tps=tps, chunks=chunks)
preset = preset.vary(accelerators=accelerators, isl=isl, osl=osl, rate=rate, seed=seed, seconds=seconds)
preset = times.carried(preset.vary(ttft_slo_s=ttft_slo_s, tpot_slo_s=tpot_slo_s))
tried = candidates(preset.accelerators, tps=preset.tps, chunks=preset.chunks)
print(preset)
print("splits:", ", ".join(map(str, tried)))

# %% [markdown]
# ## Search
#
# Interrupting the kernel ends every worker and keeps the trials: run the notebook again to go on.

# %%
first, work, slo = tried[0].topology, preset.workload, preset.slo
asked = {"engine": preset.engine, "options": preset.options, "kind": "search"}
with Lab(preset.model, first, workload=work, slo=slo, **asked) as lab:
    found = search_splits(lab, tried, seconds=preset.seconds, share=share)
    confirmed = confirm(lab, found, repeats=repeats, seconds=preset.seconds[-1])

# %% [markdown]
# ## The answer

# %%
print(found)

# %% [markdown]
# Both kinds at the load that the better one just serves, and where the time of a request went on each.

# %%
if confirmed:
    print(confirmed, explain(lab.run, *confirmed.sides), sep="\n\n")

# %% [markdown]
# ## The evidence
#
# The figures are in the run's folder too, as PNG, SVG and interactive HTML.

# %%
show_search(lab.run, found, confirmed)

# %% [markdown]
# ## Elsewhere
#
# The best split as files that start it on other machines. They say what was measured here and what is assumed there.

# %%
if export_to:
    print(export_deployment(lab.run, export_to, request_rate=request_rate))
