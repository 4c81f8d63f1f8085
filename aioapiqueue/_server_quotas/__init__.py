"""What servers say of their own quotas: a policy, attached to a queue at the first such report."""
