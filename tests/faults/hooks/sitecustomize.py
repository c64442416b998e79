"""Imported by Python at its start where this folder is in PYTHONPATH: a scene's processes import what ``FAULT_HOOKS`` names."""

import importlib
import os

if os.environ.get("FAULT_HOOKS"):
    importlib.import_module(os.environ["FAULT_HOOKS"])
