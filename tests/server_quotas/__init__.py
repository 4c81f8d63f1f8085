"""What response headers report, and limits that are learnt from them."""
