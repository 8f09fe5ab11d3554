"""What `benchmarks/bench.py` compares: the goals, a module for each kind of pair, and the table they are printed in."""
