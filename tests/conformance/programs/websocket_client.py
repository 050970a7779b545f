"""A WebSocket client: websocket_client.py ADDRESS PORT AUTHORITY PATH TIMES [NAME:VALUE ...]

Says one line of JSON for each connection: what the server saw, after 20 messages of all sizes went
there and back, a ping and a proper close.
"""
import asyncio
import json
import os
import sys

import websockets

address, port, authority, path, times = sys.argv[1:6]
headers = [tuple(part.strip() for part in header.split(":", 1)) for header in sys.argv[6:]]


async def one():
    url = f"ws://{authority}{path}"
    options = {"host": address, "port": int(port), "extra_headers": headers, "open_timeout": 60}
    try:
        async with websockets.connect(url, **options) as connection:
            seen = await connection.recv()
            for size in [0, 1, 125, 126, 65535, 65536, 300000] + [10] * 13:
                message = os.urandom(size)
                await connection.send(message)
                if await connection.recv() != message:
                    raise ConnectionError(f"a message of {size} bytes came back changed")
            await asyncio.wait_for(await connection.ping(), 60)
            answered = dict(connection.response_headers.raw_items())
        lower = {key.lower(): value for key, value in answered.items()}
        return {"status": 200, "headers": lower, "body": seen}
    except websockets.InvalidStatusCode as error:
        return {"status": error.status_code, "headers": {}, "body": str(error)}
    except (OSError, asyncio.TimeoutError, websockets.WebSocketException) as error:
        return {"status": 0, "headers": {}, "body": f"{type(error).__name__}: {error}"}


for _ in range(int(times)):
    print(json.dumps(asyncio.run(one())), flush=True)
