"""Being a process: settings, logs, metrics, health, shutdown, and the loops that drive stages."""
