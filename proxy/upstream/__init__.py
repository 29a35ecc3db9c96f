"""The upstream's side of the wire: `wire` asks chat, hot and spliced; `ark` knows the dialect."""
