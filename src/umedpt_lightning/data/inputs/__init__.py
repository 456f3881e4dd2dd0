"""What a user gives to be embedded or predicted."""
