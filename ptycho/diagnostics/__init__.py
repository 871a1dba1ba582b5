"""What a scan says about itself before anything is reconstructed: statistics, bad pixels, checks, and their repair."""
