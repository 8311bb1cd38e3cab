"""Settings of the documentation site; build it with ``make docs``."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# Notebooks call the program, keep their data inside the build folder, and reach no server.
BUILD = HERE / "_build"
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ.setdefault("SPOTBENCH_CACHE", str(BUILD / "cache"))
os.environ.setdefault("SPOTBENCH_DATA", str(BUILD / "data"))
os.environ["OMP_NUM_THREADS"] = "1"  # as in the tests: threads that wait for one another cost more
os.environ["COLUMNS"] = "100"
os.environ["PYTHONWARNINGS"] = (
    "ignore:IProgress not found"  # tqdm misses widgets, which no page has
)
# Kernels warn of connections without encryption, which stay on this machine.
KERNEL = BUILD / "ipython" / "profile_default"
KERNEL.mkdir(parents=True, exist_ok=True)
(KERNEL / "ipython_kernel_config.py").write_text("c = get_config()\nc.Application.log_level = 40\n")
os.environ["IPYTHONDIR"] = str(KERNEL.parent)
os.environ["TTY_COMPATIBLE"] = "0"  # kernels set FORCE_COLOR, which would write escape codes

from jupyter_cache.executors import utils as executors  # noqa: E402 - after the environment is set
from pygments.lexers.special import TextLexer  # noqa: E402 - after the environment is set

from bench.version import __version__  # noqa: E402 - after the environment is set

project = "SpotBench"
author = "The SpotBench developers"
copyright = "The SpotBench developers"  # noqa: A001 - named by Sphinx
version = release = __version__

extensions = [
    "generated_pages",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_generated", "generated_pages", "jupyter_execute", "**/__pycache__"]
templates_path = ["_templates"]
root_doc = "index"

# Markdown: existing pages link to headings, and to each other as files.
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_url_schemes = ("http", "https", "mailto")

# Notebooks run when the site is built (generated_pages.notebooks); output is kept until their
# code changes.
nb_execution_mode = os.environ.get("SPOTBENCH_DOCS_EXECUTION", "cache")
nb_execution_cache_path = str(BUILD / "notebooks")
nb_execution_in_temp = True
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# A program's output arrives in pieces, which are joined before lines are made of them.
executors.executenb = partial(executors.executenb, coalesce_streams=True)

# API: signatures without types, which the docstrings state with shapes and units.
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_preprocess_types = False
napoleon_custom_sections = ["Source"]

# Offline: other projects' names are not looked up; our own must be found.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!bench(\.|$)).*")]

html_theme = "pydata_sphinx_theme"
html_title = f"SpotBench {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_depth": 3,
    "show_toc_level": 2,
    "show_version_warning_banner": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def setup(app):
    """Show blocks of CSV, for which Pygments has no lexer, as plain text."""
    app.add_lexer("csv", TextLexer)
