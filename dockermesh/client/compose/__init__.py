"""`up`, `down` and `doctor`: a project on an engine, and all that can be in its way there."""
