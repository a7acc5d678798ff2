"""Cases and cohorts: find, check, read, resample, and cut into patches."""
