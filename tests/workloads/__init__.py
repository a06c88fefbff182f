# SPDX-License-Identifier: Apache-2.0
"""Programs that are put to sleep and woken, and the client that counts what their users feel.

busy.c        threads, timers, pipes, shared memory, open files; verifies itself all the time
echo.py       an asyncio server with a child process, timers and a thread pool
datagrams.py  a UDP echo
websocket.py  a WebSocket server that counts and echoes
geteuid.c     lets postgres run as root where CRIU cannot read another user's limits
client.py     runs on a node; asks one of them and counts gaps, resets, retransmits, wrong answers
crowd.py      the same over 200 connections to memcached
frames.py     the same over a WebSocket
start.py      starts each of them in a pod, real redis, nginx, memcached and postgres too
asking.py     the client as a test holds it
"""
