"""What every process of ours does in one way: replace a file, wait after a failure, log, stop."""
