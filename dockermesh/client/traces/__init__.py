"""Traces for the terminal: spans as trees, and trees as lines."""
