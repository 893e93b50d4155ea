"""A service: a page for people and an API for programs, on this machine.

`batching` runs a detector in one thread, several requests at once; `app` is the API, `page/` what a
browser shows. Needs the extra `serve`.
"""
