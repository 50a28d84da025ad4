"""From a network to a graph that is shown to compute the same."""
