"""`python -m aioapiqueue.gateway`, as `aioapiqueue run` starts it."""

from aioapiqueue.gateway.main import main

if __name__ == "__main__":
    main()
