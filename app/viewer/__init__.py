"""The page: what a browser shows of reconstructions, and how it drives them.

`serve` puts it together for the commands. `server` starts viser and our own pages behind the
`gate`, within `limits`, and reads only messages of the `protocol`. `stream` serves the clients:
`scheduling` and `turns` decide which picture comes next, `renderer` makes it from `picture` and
`pixel`. `actions` does what the `controls` say, on the `state` that all pages share: the `library`
of sources, the `jobs` that train, and the `scene` that the `loader` opened. `static` holds the
files of our pages.
"""
