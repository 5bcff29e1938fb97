"""Models in formats for other programs, each proven against the trained one."""
