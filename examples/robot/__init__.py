"""A robot that is told where to go: its expert, its recording, and the network that learned it."""
