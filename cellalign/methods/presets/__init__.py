"""The papers' hyperparameters: one YAML file per table."""
