"""What Prometheus needs of the control plane: whom to ask, and with what to prove who it is."""
