"""`MeshState`, the one immutable snapshot that translation may look at, and what follows from it
before anything of Envoy's is made: names, virtual IPs, visibility, policies, conflicts.
"""
