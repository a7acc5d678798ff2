"""What stands behind the SemiSAMPlus module: cases, jobs, layers and the panel that shows them."""
