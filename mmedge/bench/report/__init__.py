"""The report of a measurement: JSON, page, comparison, gates."""
