"""What tensors hold while samples run, and the ranges that follow."""
