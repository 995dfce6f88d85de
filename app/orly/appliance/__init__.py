"""What runs beside the services: render, check, supervise, ask whether all are well."""
