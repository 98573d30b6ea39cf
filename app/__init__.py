"""The program around the library.

Its rooms: the command line (`cli`, `console`, `commands`), the run folder (`run`), training
(`training`), and the page in the browser (`viewer`).
"""
