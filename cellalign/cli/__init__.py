"""The command line: one file per command. Each parses, calls the API and prints; nothing else."""
