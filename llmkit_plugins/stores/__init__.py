"""What is shared between processes."""
