"""The ratings service: how many stars each reviewer gave."""
