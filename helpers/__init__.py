"""What the workshop's notebooks call: one job a module, nothing happens on import."""
