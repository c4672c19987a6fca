"""What the shell does: bring projects up and down, look into proxies, talk to a running mesh."""
