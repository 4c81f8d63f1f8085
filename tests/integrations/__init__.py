"""Each integration, with the library that it paces."""
