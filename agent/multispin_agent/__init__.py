"""The agent: drafts for its users on an edge box."""
