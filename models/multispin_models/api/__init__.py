"""The OpenAI-compatible HTTP interface, for whichever end serves users: HTTP here, text from a `TextService`.

Read in this order:

    settings.py     where to listen, keys, bounds
    service.py      what the end that serves must offer: a prompt in, text and figures out
    errors.py       a refusal as OpenAI's clients read it
    requests.py     request bodies, and what in them is refused
    prepare.py      a body to a prompt of tokens and the way its text is drawn
    replies.py      response bodies
    figures.py      what a text took, in llama.cpp's and vLLM's words
    framing.py      replies and chunks of both kinds of completion, framed as server-sent events
    outbox.py       text on its way from the generation to a connection that may be slow
    slots.py        how many are served, how many may wait
    keys.py         bearer keys
    openapi.py      the description at /openapi.json
    bodies.py       bodies read within bounds; answers and refusals as HTTP
    generations.py  the texts under way, and the thread that tokenizes
    completions.py  the two text endpoints: whole or streamed, until the client leaves
    prometheus.py   figures of the daemon at /metrics
    guard.py        who is let in
    app.py          the routes
    connection.py   time-outs of a connection
    server.py       the HTTP server in the event loop of its daemon
    interface.py    all of it, from a daemon's settings

Starlette and uvicorn are imported from bodies.py on, where HTTP begins.
"""
