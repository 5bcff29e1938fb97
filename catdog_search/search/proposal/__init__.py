"""Which params come next."""
