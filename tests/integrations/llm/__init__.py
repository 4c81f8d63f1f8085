"""LLM APIs, with the SDKs of their providers and local servers that enforce quotas."""
