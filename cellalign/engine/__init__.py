"""The only place that knows epochs, optimisers, devices and checkpoints. Fits any method, predicts with any."""
