"""The client's side of the wire: connections, bodies, routing, what every answer carries. Knows no endpoint."""
