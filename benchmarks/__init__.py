"""Measurements of speed and memory that print a table; nothing here is a test."""
