"""Sphinx builds the site from here: ``make docs``."""

from distex import __version__

project = "distex"
author = "the distex developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_llms_txt",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
intersphinx_mapping = {}  # no build depends on another site

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "distex"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1c6e8c", "color-brand-content": "#1c6e8c"},
    "dark_css_variables": {"color-brand-primary": "#6cc5e6", "color-brand-content": "#6cc5e6"},
}
html_show_sourcelink = False
llms_txt_summary = (
    "distex runs Python functions in a pool of worker processes, on this machine and on others, "
    "for synchronous and asynchronous code.")
