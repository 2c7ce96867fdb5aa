"""Sphinx configuration for the website. `docs/build_site.py` copies the pages and runs Sphinx."""

from importlib.metadata import distribution
from pathlib import Path

import plotly

import cryoem

project = "cryoem"
author = copyright = "The cryoem developers"
version = release = cryoem.__version__

exclude_patterns = ["originals"]  # notebooks for download

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
templates_path = [
    str(Path(__file__).parent / "_templates")
]  # autosummary would resolve a relative path against the source folder

# Markdown pages and notebooks; build_site.py has already executed the notebooks
nb_execution_mode = "off"
nb_output_stderr = "remove"  # progress bars
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_ipywidgets_js = {}  # the default loads two scripts from another server
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# API reference
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # the docstrings of Keras have a different format
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# Copy MathJax and plotly.js from installed packages, so that pages make no requests to other servers
mathjax = distribution("sphinx-mathjax-offline").locate_file(
    "sphinx-mathjax-offline/static/mathjax/tex-svg.js"
)
plotly_js = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
mathjax_path = "tex-svg.js"  # a single file that needs no fonts

html_theme = "sphinx_book_theme"
html_title = "cryoem"
html_static_path = ["_static", str(mathjax), str(plotly_js)]
html_css_files = ["site.css"]
html_js_files = [("tables.js", {"defer": "defer"})]
html_favicon = "_static/logo.svg"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "logo": {"text": "cryoem", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "navbar_persistent": [],
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
}


def setup(app) -> None:
    """Load plotly.js only on pages that contain figures."""

    def add_scripts(app, page, template, context, doctree) -> None:
        if 'class="figure-json"' in context.get("body", ""):
            for name in ("plotly.min.js", "figures.js"):
                app.add_js_file(name, loading_method="defer")

    app.connect("html-page-context", add_scripts)
