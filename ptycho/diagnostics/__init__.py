"""What can be told about a scan before anything is reconstructed, and repaired."""
