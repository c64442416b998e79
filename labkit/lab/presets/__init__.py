"""A first experiment for the hardware at hand: what to serve, which splits, and how much to ask of them. One preset a file."""

from labkit.lab.presets.compare import ComparePreset, suggest
from labkit.lab.presets.interference import InterferencePreset, suggest_interference
from labkit.lab.presets.preset import Preset, Suggest
from labkit.lab.presets.scaling import ScalingPreset, suggest_scaling
from labkit.lab.presets.search import SearchPreset, suggest_search
from labkit.lab.presets.sweep import SweepPreset, suggest_sweep

__all__ = [
    "ComparePreset",
    "InterferencePreset",
    "Preset",
    "ScalingPreset",
    "SearchPreset",
    "Suggest",
    "SweepPreset",
    "suggest",
    "suggest_interference",
    "suggest_scaling",
    "suggest_search",
    "suggest_sweep",
]
