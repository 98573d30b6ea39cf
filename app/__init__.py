"""The command line, the run folder, and whoever drives a reconstruction."""
