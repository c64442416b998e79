"""Other tools' result files as runs of the store."""

from labkit.store.imports.importer import import_files

__all__ = ["import_files"]
