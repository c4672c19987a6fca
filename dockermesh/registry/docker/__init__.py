"""Docker as a backend: what one engine runs is the registry, a folder keeps everything else."""
