"""Any model scored on any photos."""
