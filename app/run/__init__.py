"""The run folder: its files, its reports, and how a finished scene is looked at."""
