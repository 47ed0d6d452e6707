"""The site of the documentation: `python -m sphinx -W docs FOLDER`."""

from onnxshare.version import __version__

project = "onnxshare"
version = release = __version__
copyright = "the authors of onnxshare, Apache-2.0"

extensions = ["myst_parser"]
myst_heading_anchors = 3  # links to headings, as on GitHub
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"onnxshare {__version__}"
html_show_sphinx = False
