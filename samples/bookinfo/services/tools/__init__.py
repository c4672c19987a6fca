"""More containers for the tasks that bookinfo alone cannot show; see `tools.yaml`."""
