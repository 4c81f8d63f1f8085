"""Whether the tests would notice: changes the core's code at random, and runs them."""
