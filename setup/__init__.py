"""What start.py is made of: environment, private server, API client. Standard library only."""
