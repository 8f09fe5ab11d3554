"""Pure torch: networks, likelihoods and penalties. Knows no AnnData, no method and no file."""
