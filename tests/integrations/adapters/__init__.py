"""Small adapters: the limiters that other libraries accept, each with its library."""
