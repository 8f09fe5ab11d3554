"""The colours that all pictures share."""

# Okabe and Ito's palette, told apart by colour-blind readers; more categories cycle through lighter shades
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#F0E442", "#555555", "#000000")
