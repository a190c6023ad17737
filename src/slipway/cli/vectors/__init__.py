"""`slipway embed`: texts as vectors, and an exact search over a folder of text files."""
