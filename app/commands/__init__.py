"""The commands: a file for each, with the work it does and the table it prints."""
