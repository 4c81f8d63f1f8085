"""What a limit is and when it has room: texts, values, arithmetic. Time is an argument."""
