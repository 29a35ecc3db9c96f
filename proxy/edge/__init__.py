"""The client's side of the gateway: connections, bodies, routing, the headers of every answer. Knows no endpoint.

From a socket to a handler, in the order of the calls:

1. `sockets` opens listening sockets.
2. `listener.Listener` accepts on them, and closes them; the public one, the admin's and that of the metrics (`gateway/listeners.py`).
3. `server.Server` makes a connection of each client that is accepted, and keeps them.
4. `connection.Connection` answers the requests of one client, one after the other. It inherits `receiver.Receiver`, which cuts bytes
   into requests and knows a head that repeats (`repetition`), and that inherits aiohttp's protocol (`aiohttp_private.ServerProtocol`).
5. `entrance.Entrance` takes each request in, and counts those in progress.
6. `entrance.Dispatcher` finds the handler (`router`) and whom it serves.
7. The handler has a `context.Context`, reads with a `body.BodyReader`, and returns a `response.Response`.
8. `entrance.Observer` turns a failure into an answer, and the end into a log line and metrics.
"""
