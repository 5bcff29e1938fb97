"""From the best trial to the registry."""
