"""A demonstration that needs no account at Ark: a stand-in for Ark on real sockets, and a tour of the gateway."""
