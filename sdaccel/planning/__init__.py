"""What fits, what it costs, and which plan is fastest within a budget."""
