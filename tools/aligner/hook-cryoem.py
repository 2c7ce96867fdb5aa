"""PyInstaller's hook: ship the package as source files, next to which numba caches what it compiles."""

module_collection_mode = "py"
