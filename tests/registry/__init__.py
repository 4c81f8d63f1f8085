"""The registry: limits of AWS services and of hosts, and the calls that come under them."""
