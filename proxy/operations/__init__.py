"""The operator's operations, by command or over the admin socket."""
