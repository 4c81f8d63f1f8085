"""What is recorded of calls while they go on, in bounded memory: waits, and what happened when."""
