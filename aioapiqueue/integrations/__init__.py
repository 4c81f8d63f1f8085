"""One module for each optional dependency. `import aioapiqueue` imports none of these modules."""
