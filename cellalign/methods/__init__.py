"""One file per published method, and the registry that finds them (and those of other packages)."""
