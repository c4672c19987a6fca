"""Mixer's resources of Istio 1.0 to today's: `dockermesh convert`. Pure, but for its caller.

Invariant: nothing is made wider. What a rule refused and what is written here does not, is said and
fails the command; what is written passes `dockermesh validate`.
"""
