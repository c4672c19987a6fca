"""A Compose project to its meshed form, and the capture rules of its pods.

Invariant: everything here is pure; loading projects is `docker/`'s, files and the terminal are
`cli/`'s. `project.inject_project` is the way in.
"""
