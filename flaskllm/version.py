"""The version, where everybody may read it."""

VERSION = "0.1.0"
