"""Several processes that share a quota: on real servers, in virtual time where possible."""
