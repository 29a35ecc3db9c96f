"""The client's side of the gateway: connections, bodies, routing, the headers of every answer. Knows no endpoint."""
