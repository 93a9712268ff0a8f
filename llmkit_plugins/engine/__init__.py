"""Runs the hooks around a call: the lifecycle decides (no I/O), the drivers wait, the flights share."""
