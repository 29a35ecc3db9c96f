"""A gateway to try without an account at Ark: a stand-in for Ark on real sockets, and a tour."""
