"""The live page: what the coordinator does, in a browser, while it does it.

    journal.py      what has happened lately, in rings; the dispatcher tells it
    feed.py         what is new since a viewer last looked, as page events
    access.py       who sees the page, and who sees texts on it
    endpoint.py     the files of the page, and the events as a stream
    static/         the page: HTML, style and script as they are written, nothing from elsewhere

The journal and the feed are without I/O; HTTP begins in access.py.
"""
