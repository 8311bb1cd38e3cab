"""Tables and figures, made from the result store alone."""
