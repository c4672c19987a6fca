"""The documentation's site: `make docs` builds it into build/docs, and fails for a broken link."""

project = "dockermesh"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "dockermesh"
myst_heading_anchors = 3
exclude_patterns: list[str] = []
