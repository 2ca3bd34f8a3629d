"""The reference of benchmarks/creates.py: a Sanic route that commits one row durably and answers. Prints its URL."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import sys

from sanic import HTTPResponse, Request, Sanic


async def serve(path: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE gateway(id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    app = Sanic("bare", configure_logging=False)
    app.config.TOUCHUP = False

    @app.post("/")
    async def create(request: Request) -> HTTPResponse:
        db.execute("INSERT INTO gateway(name) VALUES(?)", (request.json["name"],))
        return HTTPResponse("{}", content_type="application/json")

    sock = socket.socket(proto=socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle on
    sock.bind(("127.0.0.1", 0))
    server = await app.create_server(sock=sock, return_asyncio_server=True, access_log=False)
    await server.startup()
    await server.start_serving()
    print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
