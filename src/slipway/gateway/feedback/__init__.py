"""The way back: what users think of answers, and, with consent, the answers themselves.

`record` takes feedback, `capture` watches answers of tokens that consented, `keep` writes and
removes captures, `export` makes dataset rows of both.
"""
