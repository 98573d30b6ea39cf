"""Training jobs of the page: the queue, the worker process and the memory shared with it."""
