"""Training jobs of the page: the queue, the worker process, and the memory shared with it.

`queue` runs the jobs one after the other, `job` holds the state of one, `process` starts its
`worker` in a process of its own, and scenes come back through `shared_memory`.
"""
