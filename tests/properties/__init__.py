"""What holds whatever is called: the promises, and a naive model."""
