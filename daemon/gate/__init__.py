"""Whether a candidate goes live: better on fresh labels beyond chance, and no worse at what the champion could do."""
