"""The CA, certificates and tokens of workloads, and who may have which."""
