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
# # What the runs say
#
# Any set of runs, of any kind, as one report. Sides that were measured under equal conditions stand side by side, each
# aggregated one is held against each disaggregated one, and every claim made for disaggregated serving gets a verdict:
# *reproduced*, *not reproduced*, *only when …*, *undecided*, or *not tested* with what would test it. Nothing is measured here,
# and nothing is stated that the runs do not hold.

# %% [markdown]
# Parameters: `labkit run notebooks/06_report.ipynb -p 'runs=["20261126-101500-compare-1a2b"]'` sets them in batch;
# `labkit report` makes the same page without a notebook.

# %% tags=["parameters"]
runs = None  # ids, or beginnings of them; every run of the results folder by default
resamples = 1000  # of every bootstrap

# %%
from labkit.experiments.report import pick_runs, report, unread_runs
from labkit.figures import keep_report, show_report
from labkit.store import results_folder

# %% [markdown]
# ## The verdicts

# %%
unread = () if runs else unread_runs(results_folder())
found = report(pick_runs(results_folder(), runs), resamples=resamples, unread=unread)
print(found)

# %% [markdown]
# ## The evidence
#
# The page holds all of it in one file that needs nothing else: to be read, printed, and sent on.

# %%
show_report(keep_report(found))
