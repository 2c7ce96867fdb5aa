"""Damaged files of every kind that the package reads, made anew for each run of the tests, and their measurement."""
