"""Every way back from a backup."""
