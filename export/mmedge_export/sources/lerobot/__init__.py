"""A policy of LeRobot: its files, and how it becomes a model."""
