"""An intercepting proxy for programs that the hook of `aioapiqueue run` does not reach.

It is a process of its own, and one more client of the run hub: each request waits there for its
turn, and is then forwarded unchanged, so that its signature stays valid. See docs/gateway.md.

`server` accepts connections and intercepts those to hosts in scope. `exchange` handles one request:
`calls` identifies it, `hub_turns` waits for its turn, `upstream` connects to the server, and
`response_watch` reads the response. `authority` and `trust` are about certificates. `isolate`,
`namespace` and `confinement` are for `--isolate`.
"""
