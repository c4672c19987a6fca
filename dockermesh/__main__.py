"""`python -m dockermesh` is the `dockermesh` command."""

from dockermesh.cli.main import main

main()
