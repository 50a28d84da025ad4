"""Trained weights and samples of the reference networks, which ``mmedge_export.zoo`` reads."""
