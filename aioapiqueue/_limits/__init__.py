"""What limits.toml, options and presets may say, and how it is read: under `registry`."""
