"""Atomic writing, JSON, arrays in HDF5, pictures, checksums, and the locations of the project's folders."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arrays": ["load_arrays", "save_arrays", "stored_parameters"],
        "pictures": ["read_grey"],
        "reading": [
            "canonical_json",
            "data_folder",
            "first_line",
            "foreign_kind",
            "is_gzip",
            "notebooks_folder",
            "read_json",
            "sha256_of",
            "sources_sha256",
            "uncompressed",
        ],
        "writing": [
            "atomic_write",
            "atomic_write_many",
            "check_writable",
            "new_folder",
            "path_with_suffix",
            "remove_partial_files",
            "write_text",
        ],
    },
)
