"""What goes into a bundle, held against the networks that it came from."""
