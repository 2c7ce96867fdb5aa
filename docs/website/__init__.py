"""The web site: ``docs/build_site.py`` executes the notebooks, gathers the pages and hands them to Sphinx."""
