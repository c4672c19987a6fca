"""Composition roots: what a process is made of, put together from settings, with nothing global."""
