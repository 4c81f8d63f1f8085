"""What is known about AWS's services, as data."""
