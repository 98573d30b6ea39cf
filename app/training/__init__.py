"""Training.

`inputs` has the options and the capture of a run, `start` begins or resumes one, `session` pulls
the fit and writes the run folder, `events` has what goes out of a session and the commands that
come in, `rate` and `progress` tell how far it is.
"""
