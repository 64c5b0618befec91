"""Encoders by kind of input, and the heads that methods share."""
