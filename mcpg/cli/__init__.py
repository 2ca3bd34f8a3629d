"""The command line: a client of the API. Starts in main.py; the table of commands is commands/; httpx only in client.py."""
