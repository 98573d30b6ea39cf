"""The page: what a browser shows of reconstructions, and how it drives them.

`server` starts viser behind the `gate`, which decides who may come in; `sockets` and `messages`
decide what may come through the sockets of those who did. `static` holds the files of our own
pages.
"""
