"""`python -m aioapiqueue_run.gateway`, as `aioapiqueue run` starts it."""

from aioapiqueue_run.gateway.main import main

if __name__ == "__main__":
    main()
