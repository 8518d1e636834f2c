"""fabricctl, the operator's tool: a file a command group. Nothing below it knows this package."""
