"""Measure a bundle on this machine: latency, cold start, memory, and what the machine was."""
