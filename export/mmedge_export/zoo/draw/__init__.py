"""A picture of a colored shape, drawn from a caption by flow matching."""
