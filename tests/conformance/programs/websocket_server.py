"""A WebSocket server that gives every message back: websocket_server.py PORT NAME"""
import asyncio
import json
import sys

import websockets

port, name = sys.argv[1], sys.argv[2]


async def serve(connection):
    seen = {"pod": name, "path": connection.path, "host": connection.request_headers["host"]}
    await connection.send(json.dumps(seen))
    async for message in connection:
        await connection.send(message)


async def main():
    async with websockets.serve(serve, None, int(port), extra_headers={"x-pod": name}):
        print("listening", flush=True)
        await asyncio.Future()


asyncio.run(main())
