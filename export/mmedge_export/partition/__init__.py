"""The cut of a graph into a stage for each modality and a fusion stage."""
