"""The run folder.

Its files are in `folder`, `record`, `cameras`, `metrics`, `lock` and `files`; its reports in
`report` and `uncertainty_report`; what is made of its scene in `evaluation`, `export`, `film` and
`estimate`.
"""
