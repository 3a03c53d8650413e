"""The report: one self-contained HTML page, and tables for a README, from the same rows."""
