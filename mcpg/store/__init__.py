"""The database: schema, the one writer of states, and the reads. Nothing above it sees Tortoise or SQL."""
