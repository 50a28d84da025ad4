"""Statistics of timed calls: percentiles, intervals, resampling."""
