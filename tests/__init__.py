"""The tests. They import what they share from `tests.helpers`."""
