"""Clusters and their endpoints: discovery, load balancing, locality, circuit breakers, health."""
