"""Bundled shapes: published architectures without weights, and the tokenizer that they are served with."""
