#!/usr/bin/python3
"""Asks URL's host for `/` until SIGTERM, then prints what became of the requests as JSON.

Meanwhile a file has the same, as it stands.

Half of the workers keep their connection for as long as the server lets them, the others make one
for each request. No request is ever sent again: each failure counts.
"""
import http.client
import json
import os
import signal
import sys
import threading
import time

WORKERS = 6
PAUSE_S = 0.005
PATIENCE_S = 20

host, port, progress = sys.argv[1], int(sys.argv[2]), sys.argv[3]
stop = threading.Event()
lock = threading.Lock()
result = {"requests": 0, "failed": 0, "peers": {}, "reasons": {}}


def note(peer, reason):
    with lock:
        result["requests"] += 1
        if reason is None:
            result["peers"][peer] = result["peers"].get(peer, 0) + 1
        else:
            result["failed"] += 1
            reason = f"{time.strftime('%T')} {reason}"
            result["reasons"][reason] = result["reasons"].get(reason, 0) + 1


def ask(connection, keep):
    headers = {} if keep else {"connection": "close"}
    connection.request("GET", "/", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        return None, f"status {answer.status} {body[:100]!r}"
    return json.loads(body)["peer"], None


def work(keep):
    connection = None
    while not stop.is_set():
        if connection is None:
            connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
        kept = "kept" if connection.sock else "new"
        try:
            peer, reason = ask(connection, keep)
        except Exception as error:
            peer, reason = None, f"{kept} connection: {error!r}"
        note(peer, reason)
        # After `connection: close` the module has closed it and makes another by itself.
        if reason is not None or not keep:
            connection.close()
            connection = None
        time.sleep(PAUSE_S)


signal.signal(signal.SIGTERM, lambda *_: stop.set())
threads = [threading.Thread(target=work, args=(n % 2 == 0,)) for n in range(WORKERS)]
for thread in threads:
    thread.start()
print("asking", flush=True)
while not stop.is_set():
    with lock:
        text = json.dumps(result)
    with open(progress + ".new", "w", encoding="ascii") as file:
        file.write(text)
    os.rename(progress + ".new", progress)
    time.sleep(0.05)
for thread in threads:
    thread.join()
print("result " + json.dumps(result), flush=True)
