"""The tasks: one file per verb, each a Python function and the command that calls it (see `declaration`)."""
