"""What commands share: options, progress and tables, and the way to a service that runs."""
