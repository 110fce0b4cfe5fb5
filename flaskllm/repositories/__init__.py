"""Every query; nothing here commits but `database`."""
