"""Pictures and sounds from files to arrays."""
