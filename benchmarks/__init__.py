"""Speed of the harness; not part of the installed package."""
