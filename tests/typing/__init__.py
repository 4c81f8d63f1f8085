"""What mypy has to accept of the public interface, and what not."""
