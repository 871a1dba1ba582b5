"""Networks fitted to scans by the physics alone, or to simulated ones with their truth."""
