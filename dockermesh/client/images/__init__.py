"""The mesh's images on the shell's side: which there are, and how they come onto the engine.

Invariants: ours are built from the very package that runs, or loaded; a registry is only asked for
what the user named; what is downloaded for a build is downloaded outside of it, with the settings
of this machine, of which nothing enters an image.
"""
