"""State shared between processes."""
