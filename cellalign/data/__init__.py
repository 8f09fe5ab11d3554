"""h5ad files to checked AnnData, to roles, to mini-batches of tensors."""
