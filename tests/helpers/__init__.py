"""What several test modules use: servers, clients in virtual time, models, instants."""
