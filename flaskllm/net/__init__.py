"""Calls to places that a caller names: public ones only, checked at the connection."""
