"""Training: what was asked, the session that pulls the fit, and its events."""
