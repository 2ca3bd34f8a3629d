"""What a person sees in a browser: server-rendered, no script, nothing fetched from elsewhere."""
