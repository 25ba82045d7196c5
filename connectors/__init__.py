"""Where text comes from and goes to: bytes with positions, and nothing about what they mean."""
