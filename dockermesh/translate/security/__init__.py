"""What authorization policies, tokens and external authorizers become: filters in their order."""
