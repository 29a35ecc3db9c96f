"""What an operator can do, by command or over the admin socket."""
