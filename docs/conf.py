"""Sphinx's settings for the site; ``docs/build_site.py`` gathers the pages and calls it."""

import cryoem

project = "cryoem"
author = "The cryoem developers"
copyright = author
version = release = cryoem.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "website.docstrings",
    "website.figures",
    "website.mathml",
]

# Pages in Markdown, and notebooks, which arrive executed
nb_execution_mode = "off"
nb_output_stderr = "remove"  # progress bars
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_ipywidgets_js = {}  # else two scripts of other servers
myst_enable_extensions = ["attrs_block", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # docs/benchmarks.md leaves out a level

# Nothing in a page comes from elsewhere
html_math_renderer = "mathml"

# API reference
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # those of Keras are written in another way
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

# Looks
html_theme = "sphinx_book_theme"
html_title = "cryoem"
html_static_path = ["website/static"]
html_css_files = ["site.css"]
html_favicon = "website/static/logo.svg"
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
