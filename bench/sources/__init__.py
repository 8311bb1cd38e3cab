"""Hashes of source code and of files, by which stored results are keyed.

Python source is hashed as a syntax tree, so that a comment, a docstring or a line break changes
no key. Which source a result depends on follows from the import statements, read without
importing anything. Imports by a computed name (``importlib.import_module``, entry points) cannot
be seen.
"""

from bench.sources.closure import code_hash, import_closure
from bench.sources.contents import content_hash
from bench.sources.methods import harness_imports, method_code
from bench.sources.trees import tree_hash

__all__ = [
    "code_hash",
    "content_hash",
    "harness_imports",
    "import_closure",
    "method_code",
    "tree_hash",
]
