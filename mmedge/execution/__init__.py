"""Running the stages of a bundle: inputs, order, caches, checks."""
